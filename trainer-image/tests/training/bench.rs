//! Images to train with, and the pods of jobs: their launchers as processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crds::contract::{Assignment, CONTRACT_VERSION, TerminationMessage, env};
use crds::evaluation::{self, EvaluationRecord};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with images of two classes, and room for outputs.
pub(crate) struct Bench {
    root: TempDir,
}

impl Bench {
    /// `per_class` images of 16 x 16 pixels in each of two classes that differ in which half is bright.
    pub(crate) fn new(per_class: u32) -> Bench {
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

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn uri(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    pub(crate) fn training(&self, output: &str) -> Value {
        json!({
            "data": {"uri": self.uri("images"), "imageSize": 32, "validation": {"fraction": 0.2},
                     "augmentation": {"crop": "None", "horizontalFlip": 0.0, "translate": 0.1, "rotationDegrees": 5.0}},
            "training": {"epochs": 3, "batchSize": 4, "optimizer": {"name": "AdamW", "learningRate": 0.001}},
            "infrastructure": {"device": "Cpu", "processesPerNode": 2},
            "output": {"uri": self.uri(output), "checkpoint": {"everySteps": 3, "keep": 2}},
        })
    }

    pub(crate) fn scoring(&self, model: &str, output: &str) -> Value {
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
    pub(crate) fn start(&self, kind: &str, name: &str, spec: &Value, attempt: u32) -> Pod {
        self.start_with(kind, name, spec, attempt, &[])
    }

    /// As [`start`](Self::start), with more variables.
    pub(crate) fn start_with(
        &self,
        kind: &str,
        name: &str,
        spec: &Value,
        attempt: u32,
        environment: &[(&str, &str)],
    ) -> Pod {
        self.start_member(kind, name, spec, attempt, (0, 1), environment)
    }

    /// As [`start_with`](Self::start_with), one pod of so many.
    pub(crate) fn start_member(
        &self,
        kind: &str,
        name: &str,
        spec: &Value,
        attempt: u32,
        (member, members): (u32, u32),
        environment: &[(&str, &str)],
    ) -> Pod {
        let processes = spec["infrastructure"]["processesPerNode"].as_u64().unwrap_or(1);
        let assignment = Assignment {
            contract_version: CONTRACT_VERSION,
            kind: kind.into(),
            name: name.into(),
            namespace: "default".into(),
            uid: format!("uid-{name}"),
            created: None,
            attempt,
            member,
            members,
            spec: spec.clone(),
        };
        let pod = if member == 0 { format!("{name}-{attempt}") } else { format!("{name}-{attempt}-{member}") };
        let (message, path) = (self.path(&format!("{pod}.termination")), self.path(&format!("{pod}.log")));
        let log = fs::File::create(&path).unwrap();
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
        Pod { child, message, log: path }
    }

    pub(crate) fn checkpoints(&self, output: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(output).join("checkpoints")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("step-")).collect();
        names.sort();
        names
    }

    pub(crate) fn metrics(&self, output: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(output).join("metrics.json")).unwrap()).unwrap()
    }

    /// The evaluations in a model's folder by the UID of their jobs.
    pub(crate) fn history(&self, model: &str) -> BTreeMap<String, EvaluationRecord> {
        let folder = self.path(model).join(evaluation::FOLDER);
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let read = |path: PathBuf| -> EvaluationRecord { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        paths.map(read).map(|record| (record.uid.clone(), record)).collect()
    }

    pub(crate) fn weights(&self, output: &str) -> Vec<u8> {
        fs::read(self.path(output).join("model.safetensors")).unwrap()
    }
}

pub(crate) struct Pod {
    child: Child,
    message: PathBuf,
    pub(crate) log: PathBuf,
}

impl Pod {
    /// Waits for the end: the exit code, and the termination message.
    pub(crate) fn end(mut self) -> (i32, TerminationMessage) {
        let status = self.child.wait().unwrap();
        let log = fs::read_to_string(&self.log).unwrap();
        let message = fs::read(&self.message).unwrap_or_else(|_| panic!("no termination message; the log:\n{log}"));
        let message = serde_json::from_slice(&message).unwrap();
        (status.code().unwrap_or_else(|| panic!("the launcher was killed; the log:\n{log}")), message)
    }

    pub(crate) fn succeed(self) -> TerminationMessage {
        let log = self.log.clone();
        let (code, message) = self.end();
        assert_eq!(code, 0, "{message:?}\n{}", fs::read_to_string(log).unwrap());
        message
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// The process of a rank.
    pub(crate) fn rank(&self, rank: u32) -> Pid {
        let launcher = self.child.id();
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
        let is_it = |pid: &&str| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == format!("{}={rank}", env::RANK).as_bytes())
        };
        Pid::from_raw(children.split_whitespace().find(is_it).unwrap().parse().unwrap())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Kills the launcher with SIGKILL; its processes die with it.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
    }
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("in a minute there was no {what}");
}

pub(crate) fn rows(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}
