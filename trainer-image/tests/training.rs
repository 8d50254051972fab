//! Trains and scores with the real program in real processes: to the end, through kills, through requests to stop.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crds::contract::{Assignment, CONTRACT_VERSION, Cause, TerminationMessage, env};
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
        ("bucket", with("data.uri", json!("s3://bucket/images")), Cause::BadSpec, "s3"),
        ("gpu", with("infrastructure.device", json!("Gpu")), Cause::GpuUnsupported, "GPU"),
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
