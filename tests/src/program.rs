//! The operator's program, as the chart's Deployment starts it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cluster::User;
use crate::cluster::process::Process;

/// Where `trainyard` is: what `TRAINYARD_PROGRAM` names, or what `make test` built beside this test.
///
/// # Panics
/// Where there is none.
pub fn trainyard() -> PathBuf {
    if let Some(given) = std::env::var_os("TRAINYARD_PROGRAM") {
        return given.into();
    }
    let beside = std::env::current_exe().unwrap_or_default();
    let built = beside.parent().and_then(Path::parent).unwrap_or(Path::new("")).join("trainyard");
    assert!(built.is_file(), "{} is missing: cargo build -p operator", built.display());
    built
}

/// An operator as a child process. It ends when this is dropped, and with this process at the latest.
pub struct Operator {
    process: Process,
    listens: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Operator {
    /// Starts the program with the arguments and variables of a Deployment's container, as the service account that `user`
    /// has, with the catalogue of a ConfigMap in the place of the mounted one.
    ///
    /// # Panics
    /// Where it can't be started.
    pub fn of(deployment: &Value, catalogue: &Value, user: &User) -> Operator {
        let folder = tempfile::tempdir().unwrap_or_else(|fault| panic!("no folder: {fault}"));
        let file = folder.path().join("catalogue.yaml");
        let text = catalogue["data"]["catalogue.yaml"].as_str().unwrap_or_else(|| panic!("no catalogue: {catalogue}"));
        std::fs::write(&file, text).unwrap_or_else(|fault| panic!("{}: {fault}", file.display()));
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let listens = free.unwrap_or_else(|fault| panic!("no port: {fault}"));

        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let mut arguments =
            vec![format!("KUBECONFIG={}", user.kubeconfig().display()), format!("TRAINYARD_LISTEN={listens}")];
        for variable in container["env"].as_array().into_iter().flatten() {
            let text = |field: &str| variable[field].as_str().unwrap_or_default();
            arguments.push(format!("{}={}", text("name"), text("value")));
        }
        arguments.push(trainyard().display().to_string());
        for argument in container["args"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            arguments.push(argument.replace("/etc/trainyard/catalogue.yaml", &file.display().to_string()));
        }
        let process = Process::start("operator", "env".into(), arguments, folder.path());
        let process = process.unwrap_or_else(|fault| panic!("{fault}"));
        Operator { process, listens, _folder: folder }
    }

    /// What it answers on a path; empty while it doesn't.
    ///
    /// # Panics
    /// Where it has ended.
    pub fn get(&mut self, path: &str) -> String {
        if let Some(status) = self.process.ended() {
            panic!("the operator ended with {status}:\n{}", self.process.last_words());
        }
        let answer = ureq::get(format!("http://{}{path}", self.listens)).call();
        answer.ok().and_then(|mut answer| answer.body_mut().read_to_string().ok()).unwrap_or_default()
    }

    /// Tells it to stop as a kubelet does; it is waited for.
    ///
    /// # Panics
    /// Where it ends badly.
    pub fn stop(mut self) {
        let process = self.process.id().unwrap_or_else(|| panic!("the operator does not run"));
        let told = Command::new("kill").args(["-TERM", &process.to_string()]).status();
        assert!(told.is_ok_and(|told| told.success()), "the operator can't be told to stop");
        let status = self.process.wait();
        assert!(status.is_some_and(|status| status.success()), "{status:?}:\n{}", self.process.last_words());
    }
}
