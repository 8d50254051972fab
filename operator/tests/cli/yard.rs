//! A folder with a manifest, a plan for the planned trainer, and the `trainyard` that runs there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Longest time that a test waits for something.
const PATIENCE: Duration = Duration::from_secs(60);
/// The folder of the TrainingJob.
const JOB: &str = ".trainyard/jobs/local.TrainingJob.digits";

pub(crate) struct Yard {
    dir: TempDir,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Yard {
    /// A TrainingJob whose n-th attempt does what the n-th word says.
    pub(crate) fn training(plan: &[&str]) -> Yard {
        let yard = Yard { dir: tempfile::tempdir().expect("a folder") };
        fs::create_dir(yard.path("data")).expect("a folder");
        yard.write("job.yaml", &format!(
            "apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata:\n  name: digits\nspec:\n  data:\n    uri: file://{}\n  \
             training:\n    epochs: 2\n  output:\n    uri: pvc://models/digits\n",
            yard.path("data").display()
        ));
        yard.plan(plan);
        yard
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("the folder").join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|fault| panic!("{name}: {fault}"))
    }

    pub(crate) fn plan(&self, words: &[&str]) {
        self.write("plan", &(words.join("\n") + "\n"));
    }

    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = self.read("job.yaml");
        assert!(text.contains(from), "{from:?} is not in the manifest");
        self.write("job.yaml", &text.replace(from, to));
    }

    /// The job's status as its folder has it.
    pub(crate) fn status(&self) -> Value {
        self.status_of("local.TrainingJob.digits")
    }

    pub(crate) fn status_of(&self, job: &str) -> Value {
        serde_json::from_str(&self.read(&format!(".trainyard/jobs/{job}/status.json"))).expect("JSON")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard"));
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null()).env_remove("CUDA_VISIBLE_DEVICES");
        command.env("TRAINYARD_TRAINER", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trainers/planned.sh"));
        command
    }

    pub(crate) fn trainyard(&self, arguments: &[&str]) -> Ran {
        self.spawn(arguments).wait()
    }

    /// `trainyard run` with these arguments besides.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.start(arguments).wait()
    }

    /// The same, not waited for.
    pub(crate) fn start(&self, arguments: &[&str]) -> Started {
        self.spawn(&[&["run", "-f", "job.yaml"], arguments].concat())
    }

    fn spawn(&self, arguments: &[&str]) -> Started {
        let child = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Started { child: Some(child.expect("trainyard starts")) }
    }

    /// Waits until the trainer has made this file.
    pub(crate) fn wait_for(&self, name: &str) -> String {
        self.wait_until(name, |text| text.ends_with('\n')).trim().to_owned()
    }

    /// Waits until the run has written down that the job runs: what is killed before that has not begun.
    pub(crate) fn wait_until_it_runs(&self) {
        self.wait_until(&format!("{JOB}/status.json"), |text| text.contains("\"phase\": \"Running\""));
    }

    fn wait_until(&self, name: &str, is_done: impl Fn(&str) -> bool) -> String {
        let since = Instant::now();
        let mut text = String::new();
        while since.elapsed() < PATIENCE {
            text = fs::read_to_string(self.path(name)).unwrap_or_default();
            if is_done(&text) {
                return text;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("{name} is still {text:?}");
    }
}

/// A run under way; killed if the test ends before it.
pub(crate) struct Started {
    child: Option<Child>,
}

impl Started {
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it can be signalled");
    }

    /// Waits until it ends.
    pub(crate) fn wait(mut self) -> Ran {
        let child = self.child.take().expect("it runs");
        let (pid, (sender, ended)) = (Pid::from_raw(child.id().cast_signed()), mpsc::channel());
        let reader = thread::spawn(move || sender.send(child.wait_with_output()));
        let output = ended.recv_timeout(PATIENCE).or_else(|_| {
            kill(pid, Signal::SIGKILL).expect("it can be killed");
            ended.recv().map(|output| panic!("it did not end: {:?}", output.map(Ran::from)))
        });
        reader.join().expect("it reads").expect("somebody waits");
        output.expect("an end").expect("it can be waited for").into()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a process lives (and is no zombie).
pub(crate) fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}
