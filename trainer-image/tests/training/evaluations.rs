//! The evaluations of a model, in the model's folder.

use std::fs;

use crds::contract::Cause;
use crds::evaluation;

use crate::bench::Bench;

#[test]
fn each_evaluation_is_in_the_model_s_history_once() {
    let bench = Bench::new(20);
    let trained = bench.start("TrainingJob", "model", &bench.training("model"), 1).succeed().result.unwrap();
    for attempt in [1, 2] {
        let done = bench.start("ScoringJob", "first", &bench.scoring("model", "first"), attempt).succeed();
        assert_eq!(done.result.unwrap().note, None);
    }
    fs::write(bench.path("images/left/000.png"), b"not an image").unwrap();
    bench.start("ScoringJob", "second", &bench.scoring("model", "second"), 1).succeed();
    let history = bench.history("model");
    assert_eq!(history.len(), 2);
    let [first, second] = ["first", "second"].map(|name| &history[&format!("uid-{name}")]);
    assert_eq!((first.job.as_str(), first.version), ("ScoringJob default/first", evaluation::VERSION));
    assert_eq!((first.images, first.unreadable, first.figures.count), (40, 0, 40));
    assert_eq!((second.images, second.unreadable, second.figures.count), (40, 1, 39));
    assert_eq!((&first.data, &first.output), (&bench.uri("images"), &bench.uri("first")));
    assert_eq!(first.model_digest, trained.digest.unwrap());
    let drift = first.drift.as_ref().unwrap();
    assert_eq!(drift.at_training.accuracy, trained.metric.unwrap());
    assert!((first.figures.accuracy - drift.accuracy - drift.at_training.accuracy).abs() < 1e-12);
    assert_eq!(drift.label_shift, 0.0, "both halves of the images are of one class, then and now");
    let report = fs::read_to_string(bench.path("second/report.html")).unwrap();
    for text in ["Compared with its training", "Drift since training", "population stability index", "Calibration"] {
        assert!(report.contains(text), "{text}");
    }
}

#[test]
fn a_history_that_can_not_be_written_is_told_and_fails_nothing() {
    let bench = Bench::new(10);
    bench.start("TrainingJob", "model", &bench.training("model"), 1).succeed();
    fs::write(bench.path("model/evaluations"), b"a file in the folder's place").unwrap();
    let result = bench.start("ScoringJob", "scores", &bench.scoring("model", "scores"), 1).succeed().result.unwrap();
    let note = result.note.unwrap();
    assert!(note.starts_with("The evaluation could not be added to the model's history: "), "{note}");
    assert!(result.metric.is_some() && bench.path("scores/manifest.json").is_file());
}

#[test]
fn images_that_come_between_two_shards_change_nothing() {
    let bench = Bench::new(10);
    bench.start("TrainingJob", "model", &bench.training("model"), 1).succeed();
    let spec = bench.scoring("model", "scores");
    let shard = |member, attempt| bench.start_member("ScoringJob", "scores", &spec, attempt, (member, 2), &[]);
    // Each shard is restarted alone: the other one is still at its first attempt.
    assert_eq!(shard(0, 2).succeed().result, None, "the other shard is still to come");
    // More than there are labels that the model knows.
    fs::create_dir(bench.path("images/stranger")).unwrap();
    for copy in 0..30 {
        fs::copy(bench.path("images/left/000.png"), bench.path(&format!("images/stranger/{copy}.png"))).unwrap();
    }
    let result = shard(1, 1).succeed().result.unwrap();
    assert_eq!((result.rows_in, result.rows_out, result.note), (Some(20), Some(20), None));
    assert_eq!(bench.history("model")["uid-scores"].images, 20);
}

#[test]
fn labels_that_the_model_does_not_know_are_told_and_where_they_are_most_it_is_not_judged() {
    let bench = Bench::new(10);
    bench.start("TrainingJob", "model", &bench.training("model"), 1).succeed();
    fs::create_dir(bench.path("images/lefd")).unwrap();
    fs::rename(bench.path("images/left/000.png"), bench.path("images/lefd/000.png")).unwrap();
    let result = bench.start("ScoringJob", "one", &bench.scoring("model", "one"), 1).succeed().result.unwrap();
    let says =
        "1 of 20 labelled images have a label that is no class of the model: \"lefd\" (1); the figures leave them out";
    assert_eq!((result.note.as_deref(), result.rows_in, result.rows_failed), (Some(says), Some(20), Some(0)));

    fs::rename(bench.path("images/right"), bench.path("images/rechts")).unwrap();
    let (code, message) = bench.start("ScoringJob", "most", &bench.scoring("model", "most"), 1).end();
    assert_eq!(code, Cause::BadData.exit_code(), "{message:?}");
    assert!(message.message.contains("11 of 20") && message.message.contains("\"rechts\" (10)"), "{message:?}");
    assert!(!bench.path("most").exists(), "nothing is written for it");
}
