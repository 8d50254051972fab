//! A ScoringJob as a pod runs it.

use std::error::Error;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crds::contract::{Assignment, CONTRACT_VERSION, env};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A job with an output of its own.
pub(crate) struct Job {
    name: String,
    spec: Value,
    output: PathBuf,
    message: PathBuf,
}

/// An attempt under way.
pub(crate) struct Running {
    launcher: Child,
    message: PathBuf,
}

impl Job {
    /// A job that scores the images of a table; what an earlier one of the name has left is removed.
    pub(crate) fn new(folder: &Path, name: &str, model: &Path, list: &Path, batch: u32) -> Result<Job, Box<dyn Error>> {
        let uri = |path: &Path| format!("file://{}", path.display());
        let output = folder.join("outputs").join(name);
        if output.exists() {
            fs::remove_dir_all(&output)?;
        }
        fs::create_dir_all(folder.join("outputs"))?;
        let spec = json!({
            "model": {"uri": uri(model)}, "data": {"uri": uri(list)}, "batchSize": batch,
            "infrastructure": {"device": "Cpu"}, "output": {"uri": uri(&output), "format": "Csv"},
        });
        let message = folder.join("outputs").join(format!("{name}.termination"));
        Ok(Job { name: name.into(), spec, output, message })
    }

    /// Starts an attempt.
    pub(crate) fn start(&self, attempt: u32) -> Result<Running, Box<dyn Error>> {
        let assignment = Assignment {
            contract_version: CONTRACT_VERSION,
            kind: "ScoringJob".into(),
            name: self.name.clone(),
            namespace: "default".into(),
            uid: format!("bench-{}", self.name),
            created: None,
            attempt,
            member: 0,
            members: 1,
            spec: self.spec.clone(),
        };
        let launcher = Command::new(env!("CARGO_BIN_EXE_trainer"))
            .arg("launch")
            .env(env::ASSIGNMENT, serde_json::to_string(&assignment)?)
            .env(env::TORCHELASTIC_RUN_ID, format!("{}/{attempt}", self.name))
            .env(env::PROGRESS_PORT, "0")
            .env(env::TERMINATION_LOG, &self.message)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Running { launcher, message: self.message.clone() })
    }

    /// The paths of the rows, in their order.
    pub(crate) fn rows(&self) -> Result<Vec<String>, Box<dyn Error>> {
        let text = fs::read_to_string(self.output.join("predictions.csv"))?;
        Ok(text.lines().skip(1).map(|row| row.split(',').next().unwrap_or_default().to_owned()).collect())
    }
}

impl Running {
    /// Waits for its good end.
    pub(crate) fn succeed(mut self) -> Result<(), Box<dyn Error>> {
        match self.launcher.wait()?.success() {
            true => Ok(()),
            false => Err(format!("a job failed: {}", fs::read_to_string(&self.message)?).into()),
        }
    }

    /// Ends all of its processes at once; it may have ended by itself.
    pub(crate) fn kill(mut self) -> Result<(), Box<dyn Error>> {
        let _ = killpg(Pid::from_raw(i32::try_from(self.launcher.id())?), Signal::SIGKILL);
        self.launcher.wait()?;
        Ok(())
    }
}
