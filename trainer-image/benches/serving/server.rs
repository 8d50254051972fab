//! The server of a benchmark, and the models that it serves.

use std::error::Error;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crds::contract::{Assignment, CONTRACT_VERSION, env};
use crds::model::Architecture;
use serde_json::json;

/// A server that is ready. It is killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

/// A model folder, by a short training: what the weights are matters to nobody here.
pub(crate) fn model(folder: &Path, architecture: Architecture, photos: &Path) -> Result<PathBuf, Box<dyn Error>> {
    if folder.join("model.json").is_file() {
        return Ok(folder.to_owned());
    }
    let uri = |path: &Path| format!("file://{}", path.display());
    let assignment = Assignment {
        contract_version: CONTRACT_VERSION,
        kind: "TrainingJob".into(),
        name: "bench".into(),
        namespace: "default".into(),
        uid: architecture.name().into(),
        created: None,
        attempt: 1,
        member: 0,
        members: 1,
        spec: json!({
            "model": {"architecture": architecture.name()},
            "data": {"uri": uri(photos), "imageSize": 224, "validation": {"fraction": 0.2}},
            "training": {"epochs": 1, "batchSize": 16},
            "infrastructure": {"device": "Cpu"},
            "output": {"uri": uri(folder)},
        }),
    };
    let output = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .arg("launch")
        .env(env::ASSIGNMENT, serde_json::to_string(&assignment)?)
        .env(env::PROGRESS_PORT, "0")
        .env(env::TERMINATION_LOG, "/dev/null")
        .stdout(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(folder.to_owned())
}

impl Server {
    /// Starts a server of one model and waits until it is ready.
    pub(crate) fn start(model: &Path, arguments: &[&str]) -> Result<Server, Box<dyn Error>> {
        let port = |listener: TcpListener| Ok::<_, Box<dyn Error>>(listener.local_addr()?.port());
        let (rest, grpc) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let (rest, grpc) = (port(rest)?, port(grpc)?);
        let log = model.with_extension("log");
        let child = Command::new(env!("CARGO_BIN_EXE_trainer"))
            .args(["serve", &format!("model={}", model.display()), "--address", "127.0.0.1", "--device", "Cpu"])
            .args(["--port", &rest.to_string(), "--grpc-port", &grpc.to_string()])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        let mut server = Server { child, address: ([127, 0, 0, 1], rest).into() };
        while ureq::get(format!("http://{}/v2/health/ready", server.address)).call().is_err() {
            if let Some(end) = server.child.try_wait()? {
                return Err(format!("the server ended, {end}: {}", fs::read_to_string(&log)?).into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> Result<f64, Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kilobytes: f64 = line.split_whitespace().next().ok_or("no figure")?.parse()?;
        Ok(kilobytes * 1024.0)
    }

    /// Mean seconds of the batches so far, scaled to one of `images`.
    pub(crate) fn seconds_of_a_batch(&self, images: usize) -> Result<f64, Box<dyn Error>> {
        let text = ureq::get(format!("http://{}/metrics", self.address)).call()?.body_mut().read_to_string()?;
        let value = |name: &str| -> Result<f64, Box<dyn Error>> {
            let line = text.lines().find(|line| line.starts_with(name)).ok_or("no such figure")?;
            Ok(line.rsplit(' ').next().ok_or("no value")?.parse()?)
        };
        let seconds = value("trainyard_serving_inference_seconds_sum{")?;
        Ok(seconds / value("trainyard_serving_batch_images_sum ")? * images as f64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
