//! The trainer as a pod runs it: launcher, preflight, two processes, images from files. Seconds to its first step, memory of
//! a process, and how it ends when it is told to stop.

use std::error::Error;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crds::contract::{Assignment, CONTRACT_VERSION, Progress, TerminationMessage, env};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

use crate::ranks::{BATCH, RANKS, SIZE};

/// A training of the benchmark's job over image files.
pub(crate) struct Product {
    images: PathBuf,
    root: TempDir,
    starts: u32,
}

/// A launcher that has made its first step.
pub(crate) struct Running {
    launcher: Child,
    address: String,
    agent: ureq::Agent,
    output: PathBuf,
    message: PathBuf,
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
        let output = self.root.path().join(format!("model-{}", self.starts));
        let message = self.root.path().join("termination");
        let uri = |path: &Path| format!("file://{}", path.display());
        let assignment = Assignment {
            contract_version: CONTRACT_VERSION,
            kind: "TrainingJob".into(),
            name: "bench".into(),
            namespace: "default".into(),
            uid: format!("bench-{}", self.starts),
            attempt: 1,
            member: 0,
            members: 1,
            spec: json!({
                "data": {"uri": uri(&self.images), "imageSize": SIZE, "validation": {"fraction": 0.1}},
                "training": {"epochs": 1000, "batchSize": BATCH},
                "infrastructure": {"device": "Cpu", "processesPerNode": RANKS},
                "output": {"uri": uri(&output)},
            }),
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let start = Instant::now();
        let launcher = Command::new(env!("CARGO_BIN_EXE_trainer"))
            .arg("launch")
            .env(env::ASSIGNMENT, serde_json::to_string(&assignment)?)
            .env(env::PET_NPROC_PER_NODE, RANKS.to_string())
            .env(env::TORCHELASTIC_RUN_ID, &assignment.uid)
            .env(env::PROGRESS_PORT, port.to_string())
            .env(env::TERMINATION_LOG, &message)
            .env("OMP_NUM_THREADS", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(1))).build().into();
        let address = format!("http://127.0.0.1:{port}/progress");
        let mut running = Running { launcher, address, agent, output, message, seconds_to_first_step: 0.0 };
        running.wait_for_step(1)?;
        running.seconds_to_first_step = start.elapsed().as_secs_f64();
        Ok(running)
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
