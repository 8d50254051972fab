//! A server of a test: `trainer serve` as a process.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crds::contract::{TerminationMessage, env};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::client::get;

/// A process that serves. It is killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    folder: TempDir,
    /// Where REST is.
    pub(crate) rest: SocketAddr,
    /// Where gRPC is.
    pub(crate) grpc: SocketAddr,
}

/// Waits until something holds, for a minute at most.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("in a minute there was no {what}");
}

/// Starts the program with these arguments and variables, on free ports of this machine.
fn spawn(arguments: &[&str], variables: &[(&str, &str)], folder: &TempDir) -> Child {
    let log = fs::File::create(folder.path().join("log")).unwrap();
    Command::new(std::env!("CARGO_BIN_EXE_trainer"))
        .args(["serve", "--address", "127.0.0.1"])
        .args(["--port", "--grpc-port"].iter().filter(|port| !arguments.contains(port)).flat_map(|port| [port, "0"]))
        .args(arguments)
        .envs(variables.iter().copied())
        .env(env::TERMINATION_LOG, folder.path().join("termination"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Server {
        Server::start_with(arguments, &[])
    }

    pub(crate) fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let child = spawn(arguments, variables, &folder);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server { child, folder, rest: nowhere, grpc: nowhere };
        wait_until("server", || {
            assert_eq!(server.child.try_wait().unwrap(), None, "{}", server.log());
            server.logged("REST is at http://").is_some()
        });
        server.rest = server.logged("REST is at http://").unwrap();
        server.grpc = server.logged("gRPC is at ").unwrap();
        wait_until("server that is ready", || get(server.rest, "/v2/health/ready").status == 200);
        server
    }

    /// The address that the log has behind some words.
    fn logged(&self, words: &str) -> Option<SocketAddr> {
        let log = self.log();
        let rest = log.split(words).nth(1)?;
        rest.split_once('\n')?.0.trim().parse().ok()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for the end and tells the exit code.
    pub(crate) fn end(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Waits for the end and tells the exit code and the log.
    pub(crate) fn end_with_log(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.log())
    }

    /// A figure of `/metrics`.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = get(self.rest, "/metrics").text();
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// Starts a server that can't serve: its exit code and termination message.
pub(crate) fn failure(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, TerminationMessage) {
    let folder = tempfile::tempdir().unwrap();
    let code = spawn(arguments, variables, &folder).wait().unwrap().code().unwrap();
    let path: PathBuf = folder.path().join("termination");
    let message = fs::read(path).unwrap_or_else(|error| {
        panic!("no termination message: {error}: {}", fs::read_to_string(folder.path().join("log")).unwrap())
    });
    (code, serde_json::from_slice(&message).unwrap())
}
