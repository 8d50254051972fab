//! An endpoint on this machine: the trainer's server as one process, until a signal comes.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crds::ModelEndpoint;
use crds::contract::{Assignment, CONTRACT_VERSION, SERVE_COMMAND, env, paths};
use crds::fault::Fault;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use uuid::Uuid;

use super::device;
use super::environment;
use super::error::RunError;
use super::inputs;
use super::job::NAMESPACE;
use super::report::Outcome;
use super::runner::{CUDA_VISIBLE_DEVICES, Options};
use crate::build::assignment;
use crate::manifest::Manifest;

/// Where it listens: nobody else is to reach it.
const ADDRESS: &str = "127.0.0.1";
/// Time between two looks at the server.
const TICK: Duration = Duration::from_millis(100);
/// Time for its answer whether it is ready.
const PATIENCE: Duration = Duration::from_millis(500);

/// Serves an endpoint until a signal comes: the first one lets it answer what it has, the second one kills it.
///
/// # Errors
/// A [`RunError`] if it can't be served, before anything is started, or if the machine fails.
pub(super) fn serve(
    endpoint: &ModelEndpoint,
    manifest: &Manifest,
    options: &Options,
    signals: &Receiver<i32>,
) -> Result<Outcome, RunError> {
    let spec = &endpoint.spec;
    let refuse = |path: &str, message: &str, hint: &str| {
        Err(RunError::Manifest(vec![manifest.locate(Fault::error(path, message, hint))]))
    };
    if spec.infrastructure.image.is_some() {
        let message = "a custom image needs a cluster: trainyard run starts Trainyard's own server";
        return refuse("spec.infrastructure.image", message, "Leave it out");
    }
    if spec.authentication.is_some() {
        let message = "has no effect here: the server asks for no token, and listens on 127.0.0.1 alone";
        eprintln!("{}", manifest.locate(Fault::warning("spec.authentication", message, "")));
    }
    for fault in environment::left_out(&spec.infrastructure) {
        eprintln!("{}", manifest.locate(fault));
    }
    let name = endpoint.metadata.name.clone().unwrap_or_default();
    let namespace = endpoint.metadata.namespace.clone().unwrap_or_else(|| NAMESPACE.to_owned());
    let found = inputs::find(manifest, &namespace, &options.state, &options.volumes)?;
    let place = device::place(&spec.infrastructure, 1, device::gpus(Path::new("/dev")))?;
    let assignment = Assignment {
        contract_version: CONTRACT_VERSION,
        kind: "ModelEndpoint".to_owned(),
        name: name.clone(),
        namespace,
        uid: Uuid::new_v4().to_string(),
        created: None,
        attempt: 1,
        member: 0,
        members: 1,
        spec: assignment::resolve(&manifest.value["spec"], place.status.device, &found.mounts, &found.models),
    };
    let (port, grpc_port) = (spec.service.port, spec.service.grpc_port);
    let visible = std::env::var(CUDA_VISIBLE_DEVICES).ok();
    let child = Command::new(&options.trainer)
        .args([SERVE_COMMAND, "--address", ADDRESS, "--port", &port.to_string(), "--grpc-port", &grpc_port.to_string()])
        // No load balancer has to hear first that it ends.
        .args(["--drain-seconds", "0"])
        .envs(environment::given(&spec.infrastructure))
        .env(env::ASSIGNMENT, serde_json::to_string(&assignment).unwrap_or_default())
        .env(CUDA_VISIBLE_DEVICES, device::visible_gpus(&place, 0, visible.as_deref()))
        .stdin(Stdio::null())
        // A group of its own: the terminal's Ctrl-C is for us, who pass it on as SIGTERM.
        .process_group(0)
        .spawn()
        .map_err(RunError::io("start", &options.trainer))?;
    let mut server = Server { child };
    let url = format!("http://{ADDRESS}:{port}");
    let (ended, stopped_by) =
        server.until_the_end(&url, signals).map_err(RunError::io("wait for", &options.trainer))?;
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal)).unwrap_or(255);
    let title = format!("ModelEndpoint {name}");
    Ok(match stopped_by {
        Some(signal) => Outcome {
            exit_code: u8::try_from(128 + signal).unwrap_or(130),
            text: format!("{title}: stopped"),
            done: false,
        },
        None => Outcome {
            exit_code: u8::try_from(code).unwrap_or(1).max(1),
            text: format!("{title}: its server ended with code {code}, see above"),
            done: false,
        },
    })
}

/// The server's process; what is left of it dies with this.
struct Server {
    child: Child,
}

impl Server {
    /// Tells where it answers once it does, and passes signals on; how it ended, and the signal that stopped it, if one did.
    fn until_the_end(&mut self, url: &str, signals: &Receiver<i32>) -> io::Result<(ExitStatus, Option<i32>)> {
        let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
        let (mut is_told, mut stopped_by) = (false, None);
        loop {
            if let Some(ended) = self.child.try_wait()? {
                return Ok((ended, stopped_by));
            }
            if !is_told && stopped_by.is_none() && agent.get(format!("{url}{}", paths::READY)).call().is_ok() {
                is_told = true;
                eprintln!("Answers at {url}; Ctrl-C ends it");
            }
            match signals.recv_timeout(TICK) {
                Ok(signal) => {
                    self.signal(if stopped_by.is_none() { Signal::SIGTERM } else { Signal::SIGKILL });
                    stopped_by.get_or_insert(signal);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            // It is not reaped yet, so the number is still its own. That it has ended already is no fault.
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
