//! A child process that ends with this one, and a folder that is removed with it, however it ends.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::Error;

/// A program of the control plane, running or not.
pub(crate) struct Process {
    pub(crate) name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts a program in `folder`, where it also writes its log.
    pub(crate) fn start(
        name: &'static str,
        program: PathBuf,
        arguments: Vec<String>,
        folder: &Path,
    ) -> Result<Process, Error> {
        let mut process = Process { name, program, arguments, folder: folder.into(), child: None };
        process.run()?;
        Ok(process)
    }

    /// Starts it, as it was started before.
    pub(crate) fn run(&mut self) -> Result<(), Error> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program).args(&self.arguments).current_dir(&self.folder);
        // Not in our process group: an interrupt from a terminal is for the tests.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let spawned = spawn(command).map_err(|source| Error::Spawn { program: self.program.clone(), source })?;
        self.child = Some(spawned);
        Ok(())
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It fails only if the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Its process number, if it was started.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills a process that it started and that lives on without it, as one inside of other namespaces does; and it with that.
    pub(crate) fn kill_children(&mut self) {
        for child in self.id().map(children).unwrap_or_default() {
            let _ = Command::new("kill").args(["-KILL", &child.to_string()]).stderr(Stdio::null()).status();
        }
        self.wait();
        self.child = None;
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.wait().ok())
    }

    /// The last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn log(&self) -> PathBuf {
        self.folder.join(self.name).with_extension("log")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The processes that a process started.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of = |process: &u32| {
        let line = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name in brackets may have spaces; state and parent come after it.
        line.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    numbers.filter(|process| of(process) == Some(parent)).collect()
}

/// Starts a process from a thread that lives as long as this process: the kernel sends a child its parent-death signal
/// when the thread that started it ends, and a test's thread ends with the test.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<(Command, Sender<io::Result<Child>>)>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<(Command, Sender<io::Result<Child>>)>();
        thread::spawn(move || {
            for (mut command, reply) in requests {
                // Nobody waits for it any more if this fails.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, answer) = channel();
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    spawner.send((command, reply)).map_err(|_| gone(()))?;
    answer.recv().map_err(|_| gone(()))?
}

/// A folder that is removed when this is dropped, or when this process ends in whatever way.
pub(crate) struct Folder {
    path: PathBuf,
    watchdog: Child,
}

/// What the names of such folders begin with.
pub(crate) const FOLDERS: &str = "trainyard-cluster-";

impl Folder {
    pub(crate) fn new() -> Result<Folder, Error> {
        Folder::with_end("")
    }

    /// One with shell text that is run in the end, before the folder goes, which it has as `$1`.
    pub(crate) fn with_end(end: &str) -> Result<Folder, Error> {
        let path = tempfile::Builder::new().prefix(FOLDERS).tempdir()?.keep();
        // Its standard input ends when we do. A process that is being killed may still write, hence again and again.
        let removal = "for try in 1 2 3 4 5 6 7 8 9; do rm -rf \"$1\" && exit; sleep 0.2; done";
        let watchdog = Command::new("sh")
            .args(["-c", &format!("cat > /dev/null\n{end}{removal}"), "sh"])
            .arg(&path)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| Error::Spawn { program: "sh".into(), source })?;
        Ok(Folder { path, watchdog })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closes its standard input, and waits for it.
        let _ = self.watchdog.wait();
    }
}
