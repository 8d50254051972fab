//! Trains and scores with the real program in real processes: to the end, through kills, through requests to stop.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crds::contract::{Assignment, CONTRACT_VERSION, Cause, TerminationMessage, env};
use crds::evaluation::{self, EvaluationRecord};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with images of two classes, and room for outputs.
struct Bench {
    root: TempDir,
}

impl Bench {
    /// `per_class` images of 16 x 16 pixels in each of two classes that differ in which half is bright.
    fn new(per_class: u32) -> Bench {
        let root = tempfile::tempdir().unwrap();
        for (class, bright_left) in [("left", true), ("right", false)] {
            let folder = root.path().join("images").join(class);
            fs::create_dir_all(&folder).unwrap();
            for index in 0..per_class {
                let image = image::RgbImage::from_fn(16, 16, |x, y| {
                    let noise = (x * 7 + y * 13 + index * 29) % 64;
                    let level = if (x < 8) == bright_left { 180 } else { 20 };
                    image::Rgb([(level + noise) as u8; 3])
                });
                image.save(folder.join(format!("{index:03}.png"))).unwrap();
            }
        }
        Bench { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn uri(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    fn training(&self, output: &str) -> Value {
        json!({
            "data": {"uri": self.uri("images"), "imageSize": 32, "validation": {"fraction": 0.2},
                     "augmentation": {"crop": "None", "horizontalFlip": 0.0, "translate": 0.1, "rotationDegrees": 5.0}},
            "training": {"epochs": 3, "batchSize": 4, "optimizer": {"name": "AdamW", "learningRate": 0.001}},
            "infrastructure": {"device": "Cpu", "processesPerNode": 2},
            "output": {"uri": self.uri(output), "checkpoint": {"everySteps": 3, "keep": 2}},
        })
    }

    fn scoring(&self, model: &str, output: &str) -> Value {
        json!({
            "model": {"uri": self.uri(model)},
            "data": {"uri": self.uri("images")},
            "batchSize": 4,
            "evaluate": true,
            "infrastructure": {"device": "Cpu"},
            "output": {"uri": self.uri(output), "format": "Csv"},
        })
    }

    /// Starts a pod's launcher with an attempt of a job.
    fn start(&self, kind: &str, name: &str, spec: &Value, attempt: u32) -> Pod {
        self.start_with(kind, name, spec, attempt, &[])
    }

    /// As [`start`](Self::start), with more variables.
    fn start_with(&self, kind: &str, name: &str, spec: &Value, attempt: u32, environment: &[(&str, &str)]) -> Pod {
        let processes = spec["infrastructure"]["processesPerNode"].as_u64().unwrap_or(1);
        let assignment = Assignment {
            contract_version: CONTRACT_VERSION,
            kind: kind.into(),
            name: name.into(),
            namespace: "default".into(),
            uid: format!("uid-{name}"),
            attempt,
            member: 0,
            members: 1,
            spec: spec.clone(),
        };
        let message = self.path(&format!("{name}-{attempt}.termination"));
        let log = fs::File::create(self.path(&format!("{name}-{attempt}.log"))).unwrap();
        let child = Command::new(std::env!("CARGO_BIN_EXE_trainer"))
            .arg("launch")
            .env(env::ASSIGNMENT, serde_json::to_string(&assignment).unwrap())
            .env(env::PET_NPROC_PER_NODE, processes.to_string())
            .env(env::TORCHELASTIC_RUN_ID, format!("{name}/{attempt}"))
            .env(env::PROGRESS_PORT, "0")
            .env(env::TERMINATION_LOG, &message)
            .envs(environment.iter().copied())
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Pod { child, message, log: self.path(&format!("{name}-{attempt}.log")) }
    }

    fn checkpoints(&self, output: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(output).join("checkpoints")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("step-")).collect();
        names.sort();
        names
    }

    fn metrics(&self, output: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(output).join("metrics.json")).unwrap()).unwrap()
    }

    /// The evaluations in a model's folder by the UID of their jobs.
    fn history(&self, model: &str) -> BTreeMap<String, EvaluationRecord> {
        let folder = self.path(model).join(evaluation::FOLDER);
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let read = |path: PathBuf| -> EvaluationRecord { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        paths.map(read).map(|record| (record.uid.clone(), record)).collect()
    }

    fn weights(&self, output: &str) -> Vec<u8> {
        fs::read(self.path(output).join("model.safetensors")).unwrap()
    }
}

struct Pod {
    child: Child,
    message: PathBuf,
    log: PathBuf,
}

impl Pod {
    /// Waits for the end: the exit code, and the termination message.
    fn end(mut self) -> (i32, TerminationMessage) {
        let status = self.child.wait().unwrap();
        let log = fs::read_to_string(&self.log).unwrap();
        let message = fs::read(&self.message).unwrap_or_else(|_| panic!("no termination message; the log:\n{log}"));
        let message = serde_json::from_slice(&message).unwrap();
        (status.code().unwrap_or_else(|| panic!("the launcher was killed; the log:\n{log}")), message)
    }

    fn succeed(self) -> TerminationMessage {
        let log = self.log.clone();
        let (code, message) = self.end();
        assert_eq!(code, 0, "{message:?}\n{}", fs::read_to_string(log).unwrap());
        message
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// The process of a rank.
    fn rank(&self, rank: u32) -> Pid {
        let launcher = self.child.id();
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
        let is_it = |pid: &&str| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == format!("{}={rank}", env::RANK).as_bytes())
        };
        Pid::from_raw(children.split_whitespace().find(is_it).unwrap().parse().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Kills the launcher with SIGKILL; its processes die with it.
    fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("in a minute there was no {what}");
}

fn rows(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

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
fn a_training_that_is_killed_again_and_again_ends_with_the_same_bits() {
    let bench = Bench::new(20);
    bench.start("TrainingJob", "calm", &bench.training("calm"), 1).succeed();
    let mut attempt = 0;
    for checkpoints in 1..=2 {
        attempt += 1;
        let pod = bench.start("TrainingJob", "stormy", &bench.training("stormy"), attempt);
        wait_until("new checkpoint", || {
            bench.checkpoints("stormy").last().is_some_and(|last| *last >= format!("step-{:09}", checkpoints * 3))
        });
        pod.kill();
    }
    bench.start("TrainingJob", "stormy", &bench.training("stormy"), attempt + 1).succeed();
    assert!(bench.weights("calm") == bench.weights("stormy"), "the weights differ");
    let log = fs::read_to_string(bench.path(&format!("stormy-{}.log", attempt + 1))).unwrap();
    assert!(log.contains("resumed from a checkpoint"), "{log}");
}

#[test]
fn a_training_goes_on_with_another_number_of_processes() {
    let bench = Bench::new(20);
    for (name, first, then) in [("fewer", (2, 4), (1, 8)), ("more", (1, 8), (2, 4))] {
        // Eight images a step in all, whoever takes them.
        let spec = |(processes, batch): (u32, u32)| {
            let mut spec = bench.training(name);
            spec["infrastructure"]["processesPerNode"] = json!(processes);
            spec["training"]["batchSize"] = json!(batch);
            spec
        };
        let pod = bench.start("TrainingJob", name, &spec(first), 1);
        wait_until("checkpoint", || !bench.checkpoints(name).is_empty());
        pod.kill();
        let done = bench.start("TrainingJob", name, &spec(then), 2);
        let log = done.log.clone();
        done.succeed();
        assert!(fs::read_to_string(log).unwrap().contains("resumed from a checkpoint"), "{name}");
        let metrics = bench.metrics(name);
        let steps: Vec<u64> =
            metrics["epochs"].as_array().unwrap().iter().map(|epoch| epoch["steps"].as_u64().unwrap()).collect();
        assert_eq!(steps, [4, 8, 12], "{name}");
    }
}

/// A recipe with everything that has a state or draws numbers, beside what [`Bench::training`] has.
fn rich(mut spec: Value, precision: &str, epochs: usize) -> Value {
    spec["training"] = json!({
        "epochs": epochs, "batchSize": 2, "gradientAccumulation": 2, "gradientClipNorm": 1.0, "precision": precision,
        "optimizer": {"name": "RmsProp", "learningRate": 0.001, "momentum": 0.9}, "warmupSteps": 2,
        "schedule": {"name": "Plateau", "patience": 0, "gamma": 0.5}, "emaDecay": 0.9, "labelSmoothing": 0.1,
        "earlyStopping": {"patience": 3}, "classWeights": {"mode": "Given", "weights": {"left": 2.0}},
    });
    spec["data"]["imageSize"] = json!(16);
    spec["data"]["augmentation"] = json!({"policy": "RandAugment", "mixup": 0.2, "cutmix": 1.0});
    spec
}

#[test]
fn a_rich_recipe_that_is_killed_ends_with_the_same_bits_in_each_precision() {
    // CPUs are slow with 16 bits.
    for (precision, epochs) in [("Float32", 3), ("Float16", 2)] {
        let bench = Bench::new(20);
        bench.start("TrainingJob", "calm", &rich(bench.training("calm"), precision, epochs), 1).succeed();
        let pod = bench.start("TrainingJob", "stormy", &rich(bench.training("stormy"), precision, epochs), 1);
        wait_until("checkpoint of the second epoch", || {
            bench.checkpoints("stormy").last().is_some_and(|last| last.as_str() >= "step-000000006")
        });
        pod.kill();
        bench.start("TrainingJob", "stormy", &rich(bench.training("stormy"), precision, epochs), 2).succeed();
        assert!(bench.weights("calm") == bench.weights("stormy"), "the weights differ with {precision}");
        let log = fs::read_to_string(bench.path("stormy-2.log")).unwrap();
        assert!(log.contains("resumed from a checkpoint"), "{log}");
        let figures = |output: &str| -> Vec<f64> {
            let metrics = bench.metrics(output);
            let epochs = metrics["epochs"].as_array().unwrap().iter();
            epochs
                .flat_map(|epoch| ["learningRate", "validationLoss"].map(|name| epoch[name].as_f64().unwrap()))
                .collect()
        };
        // What was in a checkpoint has been through decimal digits.
        let apart = |(calm, stormy): (f64, f64)| (calm - stormy).abs() > 1e-12;
        let (calm, stormy) = (figures("calm"), figures("stormy"));
        assert!(
            calm.len() == 2 * epochs && !calm.iter().copied().zip(stormy.clone()).any(apart),
            "{calm:?} and {stormy:?}"
        );
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
fn a_loss_that_is_not_finite_ends_the_training_and_leaves_the_last_good_checkpoint() {
    let bench = Bench::new(20);
    let mut spec = bench.training("exploded");
    // Each step makes the weights 999 times as large.
    spec["training"] = json!({
        "epochs": 12, "batchSize": 4, "schedule": {"name": "Constant"},
        "optimizer": {"name": "Sgd", "learningRate": 100.0, "momentum": 0.0, "weightDecay": 10.0},
    });
    spec["output"]["checkpoint"] = json!({"everySteps": 1, "keep": 2});
    let (code, message) = bench.start("TrainingJob", "exploded", &spec, 1).end();
    assert_eq!((code, message.cause), (73, Cause::NotFinite), "{message:?}");
    let step = message.step.expect("a step");
    let newest = bench.checkpoints("exploded").pop().expect("a checkpoint");
    assert!(newest < format!("step-{step:09}"), "{newest} of step {step}");
    for checkpoint in bench.checkpoints("exploded") {
        let state = bench.path("exploded").join("checkpoints").join(checkpoint).join("state.safetensors");
        let tensors = trainer::zoo::read_safetensors(&fs::read(state).unwrap()).unwrap();
        for (name, tensor) in tensors.iter().filter(|(_, tensor)| tensor.kind() == tch::Kind::Float) {
            assert_eq!(tensor.isfinite().all().int64_value(&[]), 1, "{name}");
        }
    }
}

#[test]
fn a_request_to_stop_commits_a_checkpoint_from_which_the_same_bits_come() {
    let bench = Bench::new(20);
    bench.start("TrainingJob", "calm", &bench.training("calm"), 1).succeed();
    let pod = bench.start("TrainingJob", "stopped", &bench.training("stopped"), 1);
    wait_until("checkpoint", || !bench.checkpoints("stopped").is_empty());
    pod.signal(Signal::SIGTERM);
    let (code, message) = pod.end();
    assert_eq!((code, message.cause), (143, Cause::Preempted), "{message:?}");
    let step = message.step.expect("a step");
    assert_eq!(bench.checkpoints("stopped").last(), Some(&format!("step-{step:09}")));
    bench.start("TrainingJob", "stopped", &bench.training("stopped"), 2).succeed();
    assert!(bench.weights("calm") == bench.weights("stopped"), "the weights differ");
}

/// Dropout and stochastic depth, after a resume, leave out what they would have left out without it.
#[test]
fn a_network_that_is_random_in_training_ends_with_the_same_bits_after_a_stop() {
    let bench = Bench::new(20);
    let spec = |output: &str| {
        let mut spec = bench.training(output);
        spec["model"] = json!({"architecture": "efficientnet_b0"});
        spec
    };
    bench.start("TrainingJob", "calm", &spec("calm"), 1).succeed();
    let pod = bench.start("TrainingJob", "stopped", &spec("stopped"), 1);
    wait_until("checkpoint", || !bench.checkpoints("stopped").is_empty());
    pod.kill();
    bench.start("TrainingJob", "stopped", &spec("stopped"), 2).succeed();
    assert!(bench.weights("calm") == bench.weights("stopped"), "the weights differ");
}

#[test]
fn first_weights_are_taken_and_what_does_not_fit_is_named() {
    let bench = Bench::new(8);
    let spec = |output: &str, model: Value| {
        let mut spec = bench.training(output);
        spec["training"]["epochs"] = json!(1);
        spec["infrastructure"]["processesPerNode"] = json!(1);
        spec["model"] = model;
        spec
    };
    let log = |name: &str| fs::read_to_string(bench.path(&format!("{name}-1.log"))).unwrap();
    let network = json!({"architecture": "mobilenet_v3_small"});
    bench.start("TrainingJob", "first", &spec("first", network), 1).succeed();
    let weights = json!({"uri": bench.uri("first/model.safetensors")});

    let frozen = json!({"architecture": "mobilenet_v3_small", "initialWeights": weights,
                        "fineTuning": {"strategy": "HeadOnly"}});
    bench.start("TrainingJob", "second", &spec("second", frozen.clone()), 1).succeed();
    assert!(log("second").contains("initial weights taken whole"), "{}", log("second"));
    let tensors = |output: &str| {
        let bytes = bench.weights(output);
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect::<BTreeMap<_, _>>()
    };
    let (first, second) = (tensors("first"), tensors("second"));
    let changed: Vec<&str> = first.keys().filter(|name| first[*name] != second[*name]).map(String::as_str).collect();
    assert_eq!(changed, ["classifier.3.bias", "classifier.3.weight"]);

    // A third class.
    let folder = bench.path("images/neither");
    fs::create_dir_all(&folder).unwrap();
    for index in 0..8 {
        image::RgbImage::from_pixel(16, 16, image::Rgb([index * 30; 3]))
            .save(folder.join(format!("{index}.png")))
            .unwrap();
    }
    bench.start("TrainingJob", "third", &spec("third", frozen), 1).succeed();
    let says = "taken but for the head classifier.3, which starts anew: theirs is for 2 classes";
    assert!(log("third").contains(says), "{}", log("third"));

    let other = json!({"architecture": "resnet18", "initialWeights": weights});
    let (code, message) = bench.start("TrainingJob", "other", &spec("other", other), 1).end();
    assert_eq!(code, Cause::BadSpec.exit_code(), "{message:?}");
    assert!(message.message.contains("conv1.weight is missing; bn1.weight is missing"), "{message:?}");
    assert!(log("other").contains("features.0.0.weight is not a tensor of the model"), "{}", log("other"));
    let no_weights = json!({"architecture": "resnet18", "initialWeights": {"uri": bench.uri("images/left/000.png")}});
    let (code, message) = bench.start("TrainingJob", "picture", &spec("picture", no_weights), 1).end();
    assert_eq!(code, Cause::BadData.exit_code(), "{message:?}");
    assert!(message.message.contains("000.png: neither a safetensors file nor a PyTorch state dict"), "{message:?}");
}

#[test]
fn a_checkpoint_that_was_damaged_is_passed_over() {
    let bench = Bench::new(20);
    bench.start("TrainingJob", "calm", &bench.training("calm"), 1).succeed();
    let pod = bench.start("TrainingJob", "damaged", &bench.training("damaged"), 1);
    wait_until("two checkpoints", || bench.checkpoints("damaged").len() == 2);
    pod.kill();
    let newest = bench.checkpoints("damaged").pop().unwrap();
    let state = bench.path("damaged").join("checkpoints").join(newest).join("state.safetensors");
    let mut bytes = fs::read(&state).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&state, bytes).unwrap();
    bench.start("TrainingJob", "damaged", &bench.training("damaged"), 2).succeed();
    assert!(bench.weights("calm") == bench.weights("damaged"), "the weights differ");
}

#[test]
fn a_scoring_that_is_killed_writes_each_row_once() {
    let bench = Bench::new(20);
    bench.start("TrainingJob", "model", &bench.training("model"), 1).succeed();
    fs::write(bench.path("images/left/000.png"), b"not an image").unwrap();
    bench.start("ScoringJob", "calm", &bench.scoring("model", "calm"), 1).succeed();
    for attempt in 1..=4 {
        let pod = bench.start("ScoringJob", "stormy", &bench.scoring("model", "stormy"), attempt);
        std::thread::sleep(Duration::from_millis(u64::from(attempt) * 120));
        pod.kill();
    }
    let result = bench.start("ScoringJob", "stormy", &bench.scoring("model", "stormy"), 9).succeed().result.unwrap();
    assert_eq!((result.rows_in, result.rows_out, result.rows_failed), (Some(40), Some(40), Some(1)));
    let stormy = rows(&bench.path("stormy/predictions.csv"));
    assert_eq!(stormy, rows(&bench.path("calm/predictions.csv")));
    assert_eq!(stormy.len(), 41, "a header and a row for each image");
}

#[test]
fn what_can_not_be_done_is_said_with_its_cause() {
    let bench = Bench::new(4);
    fs::create_dir_all(bench.path("empty")).unwrap();
    let mut broken = bench.training("broken");
    fs::create_dir_all(bench.path("spoilt/left")).unwrap();
    fs::create_dir_all(bench.path("spoilt/right")).unwrap();
    for class in ["left", "right"] {
        for index in 0..3 {
            fs::write(bench.path(&format!("spoilt/{class}/{index}.png")), b"").unwrap();
        }
    }
    broken["data"]["uri"] = json!(bench.uri("spoilt"));
    let with = |field: &str, value: Value| {
        let mut spec = bench.training("output");
        let (block, name) = field.split_once('.').unwrap();
        spec[block][name] = value;
        spec
    };
    let table = [
        ("missing", with("data.uri", json!(bench.uri("nowhere"))), Cause::DataMissing, "nowhere"),
        ("empty", with("data.uri", json!(bench.uri("empty"))), Cause::BadData, "empty"),
        ("spoilt", broken, Cause::BadData, "spoilt"),
        ("gpu", with("infrastructure.device", json!("Gpu")), Cause::GpuUnsupported, "GPU"),
        (
            "weights",
            with("training.classWeights", json!({"mode": "Given", "weights": {"middle": 2.0}})),
            Cause::BadSpec,
            "classWeights names middle, and the data has the classes left, right",
        ),
        (
            "explosion",
            {
                let mut spec = with("training.optimizer", json!({"name": "Sgd", "learningRate": 1e30}));
                spec["output"]["uri"] = json!(bench.uri("explosion"));
                spec
            },
            Cause::NotFinite,
            "NaN",
        ),
    ];
    for (name, spec, cause, says) in table {
        let (code, message) = bench.start("TrainingJob", name, &spec, 1).end();
        assert_eq!((code, message.cause), (cause.exit_code(), cause), "{name}: {message:?}");
        assert!(message.message.contains(says), "{name}: {message:?}");
    }
}

#[test]
fn an_output_belongs_to_the_job_that_came_first() {
    let bench = Bench::new(4);
    bench.start("TrainingJob", "first", &bench.training("shared"), 1).succeed();
    let (code, message) = bench.start("TrainingJob", "second", &bench.training("shared"), 1).end();
    assert_eq!(code, Cause::BadSpec.exit_code(), "{message:?}");
    assert!(message.message.contains("TrainingJob default/first"), "{message:?}");
}

#[test]
fn a_process_that_stands_still_is_named_when_the_job_s_time_for_a_collective_is_over() {
    let bench = Bench::new(20);
    let mut spec = bench.training("late");
    spec["training"]["epochs"] = json!(10_000);
    spec["training"]["collectiveTimeoutSeconds"] = json!(10);
    let pod = bench.start("TrainingJob", "late", &spec, 1);
    wait_until("step", || pod.log().contains("epoch done"));
    let late = pod.rank(1);
    kill(late, Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    wait_until("end of the other rank", || pod.log().contains("did not come"));
    let took = stopped.elapsed();
    // The job's time, and not the five minutes of a job that says nothing.
    assert!((9..120).contains(&took.as_secs()), "{took:?}");
    // The other rank has ended: one that goes on before that may end first, and would tell who was late for it.
    wait_until("the launcher's stop", || pod.log().contains("stopping the others"));
    // Otherwise the launcher waits out the time that processes have to stop.
    kill(late, Signal::SIGCONT).unwrap();
    let (code, message) = pod.end();
    assert_eq!((code, message.cause), (Cause::PeerLost.exit_code(), Cause::PeerLost), "{message:?}");
    assert!(message.message.contains("1 of 2 ranks did not come: 1;"), "{message:?}");
    assert!(message.message.contains("(gloo:"), "{message:?}");
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
