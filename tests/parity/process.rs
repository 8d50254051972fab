//! Ranks as processes: ours, which are this program, and Python's, which are forks of one that has imported PyTorch.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The Python with PyTorch: what `TRAINYARD_PYTHON` names, or what `tests/python.sh` installs.
pub(crate) fn interpreter() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("TRAINYARD_PYTHON") {
            return PathBuf::from(path);
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().expect("tests/python.sh starts");
        assert!(output.status.success(), "tests/python.sh could not install PyTorch; it needs PyPI and 5 GB of disk");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}

/// A command and what it is called in messages.
pub(crate) struct Program {
    name: String,
    command: Command,
}

impl Program {
    pub(crate) fn environment(&mut self, name: &str, value: &str) {
        self.command.env(name, value);
    }

    pub(crate) fn run(mut self) -> Result<(), String> {
        let status = self.command.status().map_err(|error| format!("{}: {error}", self.name))?;
        if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", self.name)) }
    }
}

/// The folders of the libraries that Python's PyTorch loads, as `LD_LIBRARY_PATH` wants them.
pub(crate) fn python_libraries() -> Result<String, String> {
    const LIST: &str = "import glob, os, sysconfig; site = sysconfig.get_path('purelib'); \
        print(':'.join([site + '/torch/lib'] + glob.glob(site + '/nvidia/*/lib')))";
    let output = Command::new(interpreter()).args(["-c", LIST]).output().map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// Compiles and links the CUDA plug-in to `file`.
pub(crate) fn build_cuda_plugin(file: &Path) -> Program {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../trainer-image/cuda-plugin.sh"));
    command.arg(file);
    Program { name: "cuda-plugin.sh".to_string(), command }
}

/// Compiles the stand-in for the CUDA plug-in that loses a peer to `file`.
pub(crate) fn build_lost_peer(file: &Path) -> Program {
    const BUILD: &str = "${CXX:-g++} -std=c++17 -O0 -fPIC -shared -DUSE_DISTRIBUTED -isystem \"$0/.libtorch/include\" \
        -I \"$0/trainer-image/src/torch/shim\" \"$0/tests/parity/lost_peer.cpp\" \
        -L \"$0/.libtorch/lib\" -ltorch_cpu -lc10 -Wl,--allow-shlib-undefined -o \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", BUILD, concat!(env!("CARGO_MANIFEST_DIR"), "/..")]).arg(file);
    Program { name: "the stand-in for the CUDA plug-in".to_string(), command }
}

/// What `forks.py` is asked by, and where it answers.
struct Forks {
    _python: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// Runs a Python program of this folder with arguments, the first of which is a folder.
pub(crate) fn script(file: &str, folder: &Path, arguments: &[&str]) -> Result<(), String> {
    scripts(file, folder, &[arguments.iter().map(|argument| (*argument).to_owned()).collect()])
}

/// Runs a program of this folder several times at the same time, each with its arguments.
fn scripts(file: &str, folder: &Path, runs: &[Vec<String>]) -> Result<(), String> {
    static FORKS: Mutex<Option<Forks>> = Mutex::new(None);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity").join(file).display().to_string();
    let command = |run: &Vec<String>| [vec![path.clone(), folder.display().to_string()], run.clone()].concat();
    let commands: Vec<Vec<String>> = runs.iter().map(command).collect();
    let mut forks = FORKS.lock().unwrap_or_else(PoisonError::into_inner);
    let forks = forks.get_or_insert_with(Forks::start);
    let codes = forks.run(&commands).map_err(|error| format!("{file}: forks.py has ended: {error}"))?;
    let failed = codes.iter().zip(runs).find(|(code, _)| **code != 0);
    failed.map_or(Ok(()), |(code, run)| Err(format!("{file} {} ended with {code}", run.join(" "))))
}

impl Forks {
    /// It ends with this process, at the end of its input.
    fn start() -> Forks {
        let mut command = Command::new(interpreter());
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/parity/forks.py"));
        // Python's own messages about each process group would fill the log.
        command.env("TORCH_CPP_LOG_LEVEL", "ERROR").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut python = command.spawn().expect("Python starts");
        let pipes = (python.stdin.take(), python.stdout.take());
        let (Some(ask), Some(answers)) = pipes else { panic!("both are piped") };
        Forks { _python: python, ask, answers: BufReader::new(answers) }
    }

    fn run(&mut self, commands: &[Vec<String>]) -> std::io::Result<Vec<i32>> {
        writeln!(self.ask, "{}", serde_json::to_string(commands)?)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    }
}

/// PyTorch's torchrun, which starts this program as the trainer's `worker` so many times, and again as often as told after one
/// of them failed.
pub(crate) fn torchrun(processes: u32, restarts: u32) -> Command {
    let mut command = Command::new(interpreter());
    let own = std::env::current_exe().expect("a test knows its own path");
    command.args(["-m", "torch.distributed.run", "--standalone", "--no-python"]);
    command.arg(format!("--nproc-per-node={processes}")).arg(format!("--max-restarts={restarts}"));
    command.arg("--monitor-interval=0.1").arg(own).arg("worker");
    command
}

/// This program as a rank.
pub(crate) fn ours(folder: &Path, rank: u32, port: u16, run: &str) -> Program {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its own path"));
    command.arg("rank").arg(folder).args([&rank.to_string(), &port.to_string(), run]);
    command.stdout(Stdio::piped());
    Program { name: format!("our rank {rank}"), command }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("loopback has a free port").port()
}

/// A process that does not outlive the test.
pub(crate) struct Running {
    name: String,
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where all is well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    pub(crate) fn start(mut program: Program) -> Running {
        let child = program.command.spawn().expect("a rank starts");
        Running { name: program.name, child }
    }

    /// Reads standard output up to a line that starts with `start`.
    pub(crate) fn wait_for_line(&mut self, start: &str) {
        let output = self.child.stdout.as_mut().expect("standard output is piped");
        let mut byte_by_byte = BufReader::with_capacity(1, output);
        let mut line = String::new();
        while byte_by_byte.read_line(&mut line).expect("a rank writes text") > 0 {
            if line.starts_with(start) {
                return;
            }
            line.clear();
        }
        panic!("{} ended without saying {start:?}", self.name);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a rank can be killed");
    }

    /// SIGSTOP: it is there, and does nothing.
    pub(crate) fn stop(&mut self) {
        let pid = self.child.id().to_string();
        let stopped = Command::new("kill").args(["-STOP", &pid]).status().expect("kill starts");
        assert!(stopped.success(), "{} can be stopped", self.name);
    }

    /// Waits for the end, at most `limit`: exit status and the last line of standard output.
    pub(crate) fn end_within(&mut self, limit: Duration) -> Result<(ExitStatus, String), String> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                let rest = self.child.stdout.take().map(|output| std::io::read_to_string(output).unwrap_or_default());
                let last = rest.unwrap_or_default().lines().last().unwrap_or_default().to_string();
                return Ok((status, last));
            }
            if start.elapsed() > limit {
                return Err(format!("{} still runs after {limit:?}", self.name));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Runs all of Python's ranks of a job to their end.
pub(crate) fn python_ranks(folder: &Path, world_size: u32) -> Result<(), String> {
    let port = free_port().to_string();
    let runs: Vec<Vec<String>> = (0..world_size).map(|rank| vec![rank.to_string(), port.clone()]).collect();
    scripts("ddp.py", folder, &runs)
}

/// All ranks of a job.
pub(crate) struct Ranks(Vec<Running>);

impl Ranks {
    /// Ours.
    pub(crate) fn ours(folder: &Path, world_size: u32) -> Ranks {
        Ranks::ours_of_run(folder, world_size, "run")
    }

    /// Ours, of a run by this name.
    pub(crate) fn ours_of_run(folder: &Path, world_size: u32, run: &str) -> Ranks {
        let port = free_port();
        Ranks((0..world_size).map(|rank| Running::start(ours(folder, rank, port, run))).collect())
    }

    /// Waits until all have ended well.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        for running in &mut self.0 {
            let (status, last) = running.end_within(Duration::from_secs(600))?;
            if !status.success() {
                return Err(format!("{} ended with {status}: {last}", running.name));
            }
        }
        Ok(())
    }

    pub(crate) fn rank(&mut self, rank: usize) -> &mut Running {
        &mut self.0[rank]
    }
}
