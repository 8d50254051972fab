//! The trainer under PyTorch's own launcher, as a custom launcher of a pod may be: the environment is enough, and a start after
//! a failure goes on from the checkpoint.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crds::contract::{Assignment, CONTRACT_VERSION, env};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::process::torchrun;

/// Processes of the job.
const PROCESSES: u32 = 2;
/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test(
        "torchrun starts the trainer, and again after a rank was killed: the bytes of our own launcher",
        same_bytes_as_by_our_launcher,
    )]
}

fn same_bytes_as_by_our_launcher() -> Result<(), Failed> {
    let root = tempfile::tempdir()?;
    let root = root.path();
    draw(&root.join("images"), 10)?;

    let mut ours = Command::new(std::env::current_exe()?);
    ours.arg("launch").env(env::PET_NPROC_PER_NODE, PROCESSES.to_string());
    Job { root, name: "ours" }.start(ours)?.succeed()?;

    let job = Job { root, name: "theirs" };
    let run = job.start(torchrun(PROCESSES, 1))?;
    run.wait_for_checkpoint(&job)?;
    let victim = rank(&run, 1)?;
    Command::new("kill").args(["-KILL", &victim]).status()?;
    run.succeed()?;
    let log = fs::read_to_string(job.log())?;
    if !log.contains("resumed from a checkpoint") {
        return Err(format!("it did not start again:\n{log}").into());
    }
    let weights = |name: &str| fs::read(root.join(name).join("model.safetensors"));
    if weights("ours")? == weights("theirs")? { Ok(()) } else { Err("the weights differ".into()) }
}

/// Images of 16 x 16 pixels in two classes that differ in which half is bright.
fn draw(folder: &Path, per_class: u32) -> Result<(), Failed> {
    for (class, bright_left) in [("left", true), ("right", false)] {
        fs::create_dir_all(folder.join(class))?;
        for index in 0..per_class {
            let level =
                |x: u32, y: u32| (x * 7 + y * 13 + index * 29) % 64 + if (x < 8) == bright_left { 180 } else { 20 };
            let image = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([level(x, y) as u8; 3]));
            image.save(folder.join(class).join(format!("{index:03}.png")))?;
        }
    }
    Ok(())
}

struct Job<'a> {
    root: &'a Path,
    name: &'a str,
}

impl Job<'_> {
    fn log(&self) -> std::path::PathBuf {
        self.root.join(format!("{}.log", self.name))
    }

    fn spec(&self) -> Value {
        let uri = |name: &str| format!("file://{}", self.root.join(name).display());
        json!({
            "data": {"uri": uri("images"), "imageSize": 32, "validation": {"fraction": 0.2}},
            "training": {"epochs": 3, "batchSize": 4, "optimizer": {"name": "AdamW", "learningRate": 0.001}},
            "infrastructure": {"device": "Cpu", "processesPerNode": PROCESSES},
            "output": {"uri": uri(self.name), "checkpoint": {"everySteps": 1, "keep": 2}},
        })
    }

    fn start(&self, mut command: Command) -> Result<Run, Failed> {
        let assignment = Assignment {
            contract_version: CONTRACT_VERSION,
            kind: "TrainingJob".into(),
            name: self.name.into(),
            namespace: "default".into(),
            uid: format!("uid-{}", self.name),
            created: None,
            attempt: 1,
            member: 0,
            members: 1,
            spec: self.spec(),
        };
        let log = fs::File::create(self.log())?;
        let child = command
            .env(env::ASSIGNMENT, serde_json::to_string(&assignment)?)
            .env(env::PROGRESS_PORT, "0")
            .env(env::TERMINATION_LOG, self.root.join(format!("{}.termination", self.name)))
            // The same kernels on both sides: torchrun sets it where nobody does.
            .env("OMP_NUM_THREADS", "1")
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(log)
            .spawn()?;
        Ok(Run { child, log: self.log() })
    }
}

/// A launcher that does not outlive the test.
struct Run {
    child: Child,
    log: std::path::PathBuf,
}

impl Drop for Run {
    fn drop(&mut self) {
        // It has ended already where all is well. torchrun stops its ranks when it is asked to.
        let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

impl Run {
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait_for_checkpoint(&self, job: &Job<'_>) -> Result<(), Failed> {
        let began = Instant::now();
        let folder = job.root.join(job.name).join("checkpoints");
        while !fs::read_dir(&folder).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.path().join("checkpoint.json").exists()))
        }) {
            if began.elapsed() > LIMIT {
                return Err(format!("no checkpoint; the log:\n{}", self.said()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn succeed(mut self) -> Result<(), Failed> {
        let began = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("ended with {status}; the log:\n{}", self.said()).into()),
                None if began.elapsed() > LIMIT => return Err(format!("it still runs:\n{}", self.said()).into()),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

/// The process of a rank of a launcher.
fn rank(run: &Run, rank: u32) -> Result<String, Failed> {
    let launcher = run.child.id();
    // Whichever of its threads started them.
    let threads = fs::read_dir(format!("/proc/{launcher}/task"))?.flatten();
    let children: String =
        threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default()).collect();
    let is_it = |pid: &&str| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == format!("{}={rank}", env::RANK).as_bytes())
    };
    Ok(children.split_whitespace().find(is_it).ok_or_else(|| format!("no rank {rank}:\n{}", run.said()))?.to_owned())
}
