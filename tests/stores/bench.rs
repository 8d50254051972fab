//! A store, a folder of this machine, and jobs between them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crds::contract::{Assignment, CONTRACT_VERSION, Cause, TerminationMessage, env};
use libtest_mimic::Failed;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::storage::Server;

use crate::store::{BUCKET, Client, Store};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A server with a bucket, and a folder for what lies on this machine.
pub(crate) struct Bench<S = Server> {
    pub(crate) server: S,
    root: TempDir,
}

impl Bench {
    /// One with S3.
    pub(crate) fn new() -> Result<Bench, Failed> {
        Bench::on()
    }

    /// The file that an object is to the server.
    pub(crate) fn object(&self, name: &str) -> PathBuf {
        self.server.bucket(BUCKET).join(name)
    }
}

impl<S: Store> Bench<S> {
    /// One with a store of any kind.
    pub(crate) fn on() -> Result<Bench<S>, Failed> {
        Ok(Bench { server: S::start()?, root: tempfile::tempdir()? })
    }

    /// A URI in the bucket.
    pub(crate) fn uri(&self, name: &str) -> String {
        uri(S::SCHEME, name)
    }

    pub(crate) fn client(&self) -> Result<Client, Failed> {
        self.server.client()
    }

    /// A path of this machine.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn file_uri(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    /// Draws images of 16 x 16 pixels below a folder, `per_class` in each of two classes that differ in which half is bright.
    pub(crate) fn draw(&self, folder: &Path, per_class: u32) -> Result<(), Failed> {
        for (class, bright_left) in [("left", true), ("right", false)] {
            fs::create_dir_all(folder.join(class))?;
            for index in 0..per_class {
                let image = image::RgbImage::from_fn(16, 16, |x, y| {
                    let noise = (x * 7 + y * 13 + index * 29) % 64;
                    let level = if (x < 8) == bright_left { 180 } else { 20 };
                    image::Rgb([(level + noise) as u8; 3])
                });
                image.save(folder.join(class).join(format!("{index:03}.png")))?;
            }
        }
        Ok(())
    }

    /// Starts a pod's launcher with an attempt of a job that knows the server.
    pub(crate) fn start(&self, kind: &str, name: &str, spec: &Value, attempt: u32) -> Result<Pod, Failed> {
        self.start_with(kind, name, spec, attempt, &[])
    }

    /// As [`start`](Self::start), with more or other variables; an empty one is taken away.
    pub(crate) fn start_with(
        &self,
        kind: &str,
        name: &str,
        spec: &Value,
        attempt: u32,
        environment: &[(&str, &str)],
    ) -> Result<Pod, Failed> {
        let assignment = Assignment {
            contract_version: CONTRACT_VERSION,
            kind: kind.into(),
            name: name.into(),
            namespace: "default".into(),
            uid: format!("uid-{name}"),
            created: None,
            attempt,
            member: 0,
            members: 1,
            spec,
        };
        let message = self.path(&format!("{name}-{attempt}.termination"));
        let log = self.path(&format!("{name}-{attempt}.log"));
        let processes = spec["infrastructure"]["processesPerNode"].as_u64().unwrap_or(1);
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("launch")
            .envs(self.server.environment())
            .env(env::ASSIGNMENT, serde_json::to_string(&assignment)?)
            .env(env::PET_NPROC_PER_NODE, processes.to_string())
            .env(env::TORCHELASTIC_RUN_ID, format!("{name}/{attempt}"))
            .env(env::PROGRESS_PORT, "0")
            .env(env::TERMINATION_LOG, &message)
            // Small jobs: threads that wait for each other on a busy machine take longer than one does.
            .env("OMP_NUM_THREADS", "1")
            .stderr(fs::File::create(&log)?)
            .stdout(Stdio::null());
        for (name, value) in environment {
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        Ok(Pod { child: command.spawn()?, message, log })
    }

    /// Draws images below a prefix of the bucket.
    pub(crate) fn draw_there(&self, name: &str, per_class: u32) -> Result<(), Failed> {
        let folder = self.path("drawn").join(name);
        self.draw(&folder, per_class)?;
        self.client()?.upload(&folder, name)
    }
}

/// Whether the job has committed a checkpoint of this step or a later one to the bucket.
pub(crate) fn has_checkpoint(client: &Client, output: &str, step: u64) -> bool {
    let step_of = |name: &str| name.strip_suffix("/checkpoint.json")?.strip_prefix("step-")?.parse::<u64>().ok();
    let names = client.names(&format!("{output}/checkpoints")).unwrap_or_default();
    names.iter().filter_map(|name| step_of(name)).any(|found| found >= step)
}

/// A training of a few steps over both classes by two processes, from a URI to another.
pub(crate) fn training(data: &str, output: &str) -> Value {
    json!({
        "data": {"uri": data, "imageSize": 32, "validation": {"fraction": 0.2},
                 "augmentation": {"crop": "None", "horizontalFlip": 0.0, "translate": 0.1, "rotationDegrees": 5.0}},
        "training": {"epochs": 3, "batchSize": 4, "optimizer": {"name": "Sgd", "learningRate": 0.01}},
        "infrastructure": {"device": "Cpu", "processesPerNode": 2},
        "output": {"uri": output, "checkpoint": {"everySteps": 3, "keep": 2}},
    })
}

/// A scoring with a model that is judged by the images' labels.
pub(crate) fn scoring(model: &str, data: &str, output: &str) -> Value {
    json!({
        "model": {"uri": model},
        "data": {"uri": data},
        "batchSize": 4,
        "evaluate": true,
        "infrastructure": {"device": "Cpu"},
        "output": {"uri": output, "format": "Csv"},
    })
}

/// A URI in the bucket of a store.
pub(crate) fn uri(scheme: &str, name: &str) -> String {
    format!("{scheme}://{BUCKET}/{name}")
}

/// A URI in the bucket of S3.
pub(crate) fn s3(name: &str) -> String {
    uri("s3", name)
}

/// A launcher and its processes.
pub(crate) struct Pod {
    child: Child,
    message: PathBuf,
    log: PathBuf,
}

impl Drop for Pod {
    fn drop(&mut self) {
        // It has ended already where all is well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pod {
    /// Waits for the end: the exit code, and the termination message.
    pub(crate) fn end(mut self) -> Result<(i32, TerminationMessage), Failed> {
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if began.elapsed() > LIMIT => {
                    return Err(format!("it still runs; the log:\n{}", self.log()).into());
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let code = status.code().ok_or_else(|| format!("the launcher was killed; the log:\n{}", self.log()))?;
        let message =
            fs::read(&self.message).map_err(|_| format!("no termination message; the log:\n{}", self.log()))?;
        Ok((code, serde_json::from_slice(&message)?))
    }

    /// Waits for a success.
    pub(crate) fn succeed(self) -> Result<TerminationMessage, Failed> {
        let path = self.log.clone();
        match self.end()? {
            (0, message) => Ok(message),
            (code, message) => {
                Err(format!("ended with {code}: {message:?}\n{}", fs::read_to_string(path).unwrap_or_default()).into())
            }
        }
    }

    /// Waits for the end by a cause, and for a word of its message.
    pub(crate) fn fail(self, cause: Cause, says: &str) -> Result<TerminationMessage, Failed> {
        let (code, message) = self.end()?;
        match (code, message.cause) == (cause.exit_code(), cause) && message.message.contains(says) {
            true => Ok(message),
            false => Err(format!("instead of {cause:?} with {says:?} it ended with {code}: {message:?}").into()),
        }
    }

    /// Kills the launcher with SIGKILL; its processes die with it.
    pub(crate) fn kill(mut self) -> Result<(), Failed> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn has_ended(&mut self) -> Result<bool, Failed> {
        Ok(self.child.try_wait()?.is_some())
    }
}

/// Waits for something that a pod does; an error if the pod ends without it.
pub(crate) fn wait_until(pod: &mut Pod, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Failed> {
    let began = Instant::now();
    loop {
        // In this order: what it did just before it ended counts.
        let ended = pod.has_ended()?;
        match holds() {
            true => return Ok(()),
            false if ended || began.elapsed() > LIMIT => {
                return Err(format!("no {what}; the log:\n{}", pod.log()).into());
            }
            false => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// An error unless a condition holds.
pub(crate) fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}
