//! The operator as a process of its own, as it is in a cluster.

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running operator.
pub(crate) struct Operator {
    process: Child,
    metrics: String,
}

impl Operator {
    /// Starts the release build, which `make bench-operator` makes first.
    pub(crate) fn start(root: &Path, kubeconfig: &Path) -> Result<Operator, Box<dyn Error>> {
        let beside = std::env::current_exe()?;
        let built = beside.parent().and_then(Path::parent).map(|folder| folder.join("trainyard"));
        let program = built.filter(|path| path.exists()).unwrap_or_else(|| root.join("target/release/trainyard"));
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let process = Command::new(&program)
            .args(["operator", "--backoff-seconds", "1", "--listen", &address.to_string()])
            .env("KUBECONFIG", kubeconfig)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Operator { process, metrics: format!("http://{address}/metrics") })
    }

    /// The most memory that it has had resident.
    pub(crate) fn peak_mib(&self) -> Result<f64, Box<dyn Error>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// Writes to the API server so far.
    pub(crate) fn writes(&self) -> Result<f64, Box<dyn Error>> {
        let text = ureq::get(&self.metrics).call()?.body_mut().read_to_string()?;
        let counts = text.lines().filter(|line| line.starts_with("trainyard_writes_total"));
        Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
