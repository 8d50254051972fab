//! Jobs that nothing happens to: what is trained, scored, judged and compared.

use std::fs;

use crds::contract::env;
use serde_json::{Value, json};

use crate::bench::Bench;

#[test]
fn a_model_is_trained_and_scores_what_it_was_trained_on() {
    let bench = Bench::new(20);
    let done = bench.start("TrainingJob", "whole", &bench.training("model"), 1).succeed();
    let result = done.result.unwrap();
    assert_eq!((result.uri.as_str(), result.metric_name.as_deref()), (bench.uri("model").as_str(), Some("accuracy")));
    for file in ["model.safetensors", "model.json", "metrics.json", "report.html"] {
        assert!(bench.path("model").join(file).is_file(), "{file}");
    }
    // 32 training images, 8 a step over both processes, 3 epochs; a checkpoint after every third step, two kept.
    assert_eq!(bench.checkpoints("model"), ["step-000000009", "step-000000012"]);

    let scored = bench.start("ScoringJob", "scores", &bench.scoring("model", "scores"), 1).succeed().result.unwrap();
    assert_eq!((scored.rows_in, scored.rows_out, scored.rows_failed), (Some(40), Some(40), Some(0)));
    let again = bench.start("ScoringJob", "scores", &bench.scoring("model", "scores"), 2).succeed().result.unwrap();
    assert_eq!(again, scored, "a finished output is left as it is");
}

/// The mean logarithm of the labels' probabilities tells whether the probabilities are the same.
#[test]
fn an_exact_scoring_sees_the_probabilities_that_training_s_validation_saw() {
    let bench = Bench::new(20);
    let mut training = bench.training("model");
    // The same images by another name: nobody validates by what is trained on.
    std::os::unix::fs::symlink(bench.path("images"), bench.path("validation")).unwrap();
    training["data"]["validation"] = json!({"uri": bench.uri("validation")});
    training["infrastructure"]["processesPerNode"] = json!(1);
    bench.start("TrainingJob", "model", &training, 1).succeed();
    let trained = bench.metrics("model")["evaluation"]["loss"].as_f64().unwrap();
    let loss = |name: &str, environment: &[(&str, &str)]| {
        bench.start_with("ScoringJob", name, &bench.scoring("model", name), 1, environment).succeed();
        let figures: Value =
            serde_json::from_slice(&fs::read(bench.path(name).join("evaluation.json")).unwrap()).unwrap();
        figures["loss"].as_f64().unwrap()
    };
    let exact = loss("exact", &[(env::EXACT, "1")]);
    // Written as JSON and read again twice: the last digit of a sum may go that way.
    assert!((exact - trained).abs() <= 4.0 * f64::EPSILON * trained, "{exact} and {trained}");
    let folded = loss("folded", &[]);
    assert!((folded - trained).abs() <= 1e-3 * trained, "{folded} and {trained}");
}

#[test]
fn a_training_tells_how_its_model_was_judged_and_a_retraining_compares_with_it() {
    let bench = Bench::new(20);
    let mut spec = bench.training("first");
    spec["training"]["threshold"] = json!({"by": "Recall", "atLeast": 0.5});
    let result = bench.start("TrainingJob", "first", &spec, 1).succeed().result.unwrap();
    let card: Value = serde_json::from_slice(&fs::read(bench.path("first/model.json")).unwrap()).unwrap();
    let metrics = bench.metrics("first");
    let chosen = &metrics["evaluation"]["threshold"];
    assert_eq!((&chosen["by"], &card["threshold"]), (&json!("Recall"), &chosen["probability"]));
    assert!((result.threshold.unwrap() - chosen["probability"].as_f64().unwrap()).abs() < 1e-9, "{result:?}");
    assert!(card["origin"]["specDigest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{card}");
    for epoch in metrics["epochs"].as_array().unwrap() {
        let phases = epoch["phases"].as_object().unwrap();
        assert!(
            ["data", "forward", "backward", "optimizer", "validation"].iter().all(|one| phases[*one] != 0.0),
            "{epoch}"
        );
        let sum: f64 = phases.values().filter_map(Value::as_f64).sum();
        let seconds = epoch["seconds"].as_f64().unwrap();
        assert!(sum > seconds / 2.0 && sum < seconds + 0.01, "{sum} of {seconds} seconds");
    }
    let events: Vec<_> =
        fs::read_dir(bench.path("first/tensorboard")).unwrap().map(|file| file.unwrap().path()).collect();
    let [file] = events.as_slice() else { panic!("{events:?}") };
    assert!(file.to_str().unwrap().ends_with(".first.attempt-1"), "{events:?}");
    let bytes = fs::read(file).unwrap();
    let count = |tag: &str| bytes.windows(tag.len()).filter(|window| *window == tag.as_bytes()).count();
    assert_eq!((count("step/loss"), count("accuracy/validation")), (12, 3));

    let again = json!({
        "retrainFrom": {"uri": bench.uri("first")}, "infrastructure": {"device": "Cpu"},
        "output": {"uri": bench.uri("again")},
    });
    bench.start("TrainingJob", "again", &again, 1).succeed();
    let report = fs::read_to_string(bench.path("again/report.html")).unwrap();
    assert!(report.contains("Retrained from <b><bdi>TrainingJob default/first</bdi></b>.</p>"));
    for section in ["curves", "calibration", "time", "facts"] {
        assert!(report.contains(&format!("<section id=\"{section}\"")), "{section}");
    }
}

#[test]
fn a_training_that_no_longer_gets_better_stops_and_keeps_its_best_epoch() {
    let bench = Bench::new(20);
    let mut spec = bench.training("early");
    spec["training"]["epochs"] = json!(50);
    // Nothing is better by so much: the first epoch is the last one that counts.
    spec["training"]["earlyStopping"] = json!({"metric": "Loss", "patience": 2, "minDelta": 1000});
    bench.start("TrainingJob", "early", &spec, 1).succeed();
    let metrics = bench.metrics("early");
    let losses: Vec<f64> =
        metrics["epochs"].as_array().unwrap().iter().map(|epoch| epoch["validationLoss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 3, "{losses:?}");
    let kept = metrics["keptEpoch"].as_u64().unwrap() as usize;
    assert!(losses.iter().all(|loss| losses[kept - 1] <= *loss), "epoch {kept} of {losses:?}");
    let found = metrics["evaluation"]["loss"].as_f64().unwrap();
    assert!((found - losses[kept - 1]).abs() < 1e-9, "the model has the loss {found}, its epoch {}", losses[kept - 1]);
    let report = fs::read_to_string(bench.path("early").join("report.html")).unwrap();
    assert!(report.contains("3 of 50, stopped early"));
}

#[test]
fn a_training_uses_only_deterministic_algorithms_where_the_job_says_so() {
    let bench = Bench::new(8);
    for (name, deterministic) in [("any", false), ("same", true)] {
        let mut spec = bench.training(name);
        spec["training"]["epochs"] = json!(1);
        spec["training"]["deterministic"] = json!(deterministic);
        let pod = bench.start("TrainingJob", name, &spec, 1);
        let log = pod.log.clone();
        pod.succeed();
        let log = fs::read_to_string(log).unwrap();
        // As libtorch has it.
        assert!(log.contains(&format!("deterministic={deterministic}")), "{log}");
    }
}

#[test]
fn batch_norms_are_synchronised_and_gradients_compressed_where_the_job_says_so() {
    let bench = Bench::new(20);
    let mut spec = bench.training("synced");
    spec["training"]["epochs"] = json!(1);
    let plain = bench.start("TrainingJob", "plain", &spec, 1);
    let log = plain.log.clone();
    plain.succeed();
    let bytes = |log: &str| -> u64 {
        let (_, after) = log.split_once("gradient_bytes=").unwrap_or_else(|| panic!("no bytes in {log}"));
        after.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let plain = bytes(&fs::read_to_string(log).unwrap());
    spec["training"]["syncBatchNorm"] = json!(true);
    spec["training"]["gradientCompression"] = json!("BFloat16");
    spec["output"]["uri"] = json!(bench.uri("compressed"));
    let compressed = bench.start("TrainingJob", "compressed", &spec, 1);
    let log = compressed.log.clone();
    compressed.succeed();
    assert_eq!(2 * bytes(&fs::read_to_string(log).unwrap()), plain);
}
