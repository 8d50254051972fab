//! The trainer as a pod runs it: launcher, preflight, two processes, images from files. Seconds to its first step, memory of
//! a process, and how it ends when it is told to stop, is killed, or is left alone.

use std::error::Error;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crds::contract::{Assignment, CONTRACT_VERSION, Progress, TerminationMessage, env};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ranks::Job;

/// A training of the benchmark's job over image files.
pub(crate) struct Product {
    images: PathBuf,
    root: TempDir,
    starts: u32,
}

/// A launcher.
pub(crate) struct Running {
    launcher: Child,
    address: String,
    agent: ureq::Agent,
    output: PathBuf,
    message: PathBuf,
    began: Instant,
    /// Seconds from exec to the first optimizer step.
    pub(crate) seconds_to_first_step: f64,
}

/// How a training ended that was told to stop.
pub(crate) struct Stop {
    /// Seconds from the signal to the exit.
    pub(crate) seconds: f64,
    /// Whether it exited with 143, and a checkpoint of the step that it named was there.
    pub(crate) is_as_promised: bool,
}

impl Product {
    pub(crate) fn new(images: &Path) -> Result<Product, Box<dyn Error>> {
        Ok(Product { images: images.to_owned(), root: tempfile::tempdir()?, starts: 0 })
    }

    /// Starts the training anew, and waits for its first step.
    pub(crate) fn start(&mut self) -> Result<Running, Box<dyn Error>> {
        self.starts += 1;
        let mut running = self.start_with(&format!("model-{}", self.starts), 1, |_| {})?;
        running.wait_for_step(1)?;
        running.seconds_to_first_step = running.began.elapsed().as_secs_f64();
        Ok(running)
    }

    /// Starts an attempt of a training by this name, whose spec `change` changes.
    pub(crate) fn start_with(
        &mut self,
        name: &str,
        attempt: u32,
        change: impl FnOnce(&mut Value),
    ) -> Result<Running, Box<dyn Error>> {
        let Job { ranks, batch, image, .. } = Job::RESNET;
        let output = self.root.path().join(name);
        let message = self.root.path().join("termination");
        let uri = |path: &Path| format!("file://{}", path.display());
        let mut spec = json!({
            "data": {"uri": uri(&self.images), "imageSize": image, "validation": {"fraction": 0.1}},
            "training": {"epochs": 1000, "batchSize": batch},
            "infrastructure": {"device": "Cpu", "processesPerNode": ranks},
            "output": {"uri": uri(&output)},
        });
        change(&mut spec);
        let assignment = Assignment {
            contract_version: CONTRACT_VERSION,
            kind: "TrainingJob".into(),
            name: "bench".into(),
            namespace: "default".into(),
            uid: format!("bench-{name}"),
            created: None,
            attempt,
            member: 0,
            members: 1,
            spec,
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // That of an attempt before says nothing of this one.
        if message.exists() {
            fs::remove_file(&message)?;
        }
        let began = Instant::now();
        let launcher = Command::new(env!("CARGO_BIN_EXE_trainer"))
            .arg("launch")
            .env(env::ASSIGNMENT, serde_json::to_string(&assignment)?)
            .env(env::PET_NPROC_PER_NODE, ranks.to_string())
            .env(env::TORCHELASTIC_RUN_ID, format!("{}/{attempt}", assignment.uid))
            .env(env::PROGRESS_PORT, port.to_string())
            .env(env::TERMINATION_LOG, &message)
            .env("OMP_NUM_THREADS", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(1))).build().into();
        let address = format!("http://127.0.0.1:{port}/progress");
        Ok(Running { launcher, address, agent, output, message, began, seconds_to_first_step: 0.0 })
    }
}

impl Running {
    /// Waits until so many optimizer steps are made.
    pub(crate) fn wait_for_step(&mut self, step: u64) -> Result<(), Box<dyn Error>> {
        while self.step().is_none_or(|made| made < step) {
            if let Some(end) = self.launcher.try_wait()? {
                let why = fs::read_to_string(&self.message).unwrap_or_default();
                return Err(format!("the trainer ended early, {end}: {why}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Steps made so far; `None` while the server is not there yet.
    fn step(&self) -> Option<u64> {
        let mut answer = self.agent.get(&self.address).call().ok()?;
        let progress: Progress = serde_json::from_str(&answer.body_mut().read_to_string().ok()?).ok()?;
        Some(progress.step)
    }

    /// The largest resident memory that a process of the training has had so far, in GB.
    pub(crate) fn peak_gb(&self) -> Result<f64, Box<dyn Error>> {
        let mut peak: f64 = 0.0;
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
            let field = |name: &str| -> Option<f64> {
                status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
            };
            if field("PPid:") == Some(f64::from(self.launcher.id())) {
                peak = peak.max(field("VmHWM:").unwrap_or_default() * 1024.0 / 1e9);
            }
        }
        Ok(peak)
    }

    /// Waits for the end of a training that succeeds; its output.
    pub(crate) fn finish(mut self) -> Result<PathBuf, Box<dyn Error>> {
        let end = self.launcher.wait()?;
        match end.success() {
            true => Ok(self.output.clone()),
            false => Err(format!("ended with {end}: {}", fs::read_to_string(&self.message).unwrap_or_default()).into()),
        }
    }

    /// Kills the launcher; its processes die with it.
    pub(crate) fn kill(mut self) -> Result<(), Box<dyn Error>> {
        self.launcher.kill()?;
        self.launcher.wait()?;
        Ok(())
    }

    /// The process of a rank.
    pub(crate) fn rank(&self, rank: u32) -> Result<Pid, Box<dyn Error>> {
        let launcher = self.launcher.id();
        let is_it = |pid: &str| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == format!("{}={rank}", env::RANK).as_bytes())
        };
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"))?;
        let pid = children.split_whitespace().find(|pid| is_it(pid)).ok_or("the rank is not there")?;
        Ok(Pid::from_raw(pid.parse()?))
    }

    /// Waits for the end: the exit code and the termination message.
    pub(crate) fn end(mut self) -> Result<(i32, TerminationMessage), Box<dyn Error>> {
        let code = self.launcher.wait()?.code().ok_or("the launcher was killed")?;
        Ok((code, serde_json::from_slice(&fs::read(&self.message)?)?))
    }

    /// Tells the launcher to stop, as the kubelet does.
    pub(crate) fn stop(mut self) -> Result<Stop, Box<dyn Error>> {
        let start = Instant::now();
        kill(Pid::from_raw(self.launcher.id() as i32), Signal::SIGTERM)?;
        let end = self.launcher.wait()?;
        let seconds = start.elapsed().as_secs_f64();
        let message: TerminationMessage = serde_json::from_slice(&fs::read(&self.message)?)?;
        let checkpoint = message.step.map(|step| self.output.join(format!("checkpoints/step-{step:09}")));
        let is_committed = checkpoint.is_some_and(|path| path.join("checkpoint.json").is_file());
        fs::remove_dir_all(&self.output)?;
        Ok(Stop { seconds, is_as_promised: end.code() == Some(143) && is_committed })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}
