//! Child processes: the operator as it is in a cluster, and what it is compared with.

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A child process. It ends when this is dropped, and with this process at the latest.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a program. The kernel ends it with the thread that starts it, which is the main one here.
    pub(crate) fn start(program: &Path, prepare: impl FnOnce(&mut Command)) -> Result<Running, Box<dyn Error>> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null()).stdout(Stdio::null());
        prepare(&mut command);
        Ok(Running(command.spawn().map_err(|error| format!("{}: {error}", program.display()))?))
    }

    /// The most memory that it has had resident.
    pub(crate) fn peak_mib(&self) -> Result<f64, Box<dyn Error>> {
        self.memory("VmHWM:")
    }

    /// The memory that it has resident.
    pub(crate) fn resident_mib(&self) -> Result<f64, Box<dyn Error>> {
        self.memory("VmRSS:")
    }

    fn memory(&self, which: &str) -> Result<f64, Box<dyn Error>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(which)).ok_or("the kernel tells no memory")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// Ends it, and waits until it has.
    pub(crate) fn end(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A running operator.
pub(crate) struct Operator {
    pub(crate) process: Running,
    metrics: String,
}

impl Operator {
    /// Starts the release build, which `make bench-operator` makes first.
    pub(crate) fn start(root: &Path, kubeconfig: &Path) -> Result<Operator, Box<dyn Error>> {
        let beside = std::env::current_exe()?;
        let built = beside.parent().and_then(Path::parent).map(|folder| folder.join("trainyard"));
        let program = built.filter(|path| path.exists()).unwrap_or_else(|| root.join("target/release/trainyard"));
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let process = Running::start(&program, |command| {
            command
                .args(["operator", "--no-lease", "--backoff-seconds", "1", "--listen", &address.to_string()])
                .env("KUBECONFIG", kubeconfig)
                .env("RUST_LOG", "warn");
        })?;
        Ok(Operator { process, metrics: format!("http://{address}/metrics") })
    }

    /// Takes its place by a fresh one.
    pub(crate) fn restart(&mut self, root: &Path, kubeconfig: &Path) -> Result<(), Box<dyn Error>> {
        self.process.end();
        *self = Operator::start(root, kubeconfig)?;
        Ok(())
    }

    /// Writes to the API server so far.
    pub(crate) fn writes(&self) -> Result<f64, Box<dyn Error>> {
        let text = ureq::get(&self.metrics).call()?.body_mut().read_to_string()?;
        let counts = text.lines().filter(|line| line.starts_with("trainyard_writes_total"));
        Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}
