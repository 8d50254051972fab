//! A cluster with two real nodes to try things on: `rig [COMMAND..]` runs a command (a shell if none is given) in the namespaces of
//! the cluster, with KUBECONFIG set, and takes all of it down when that ends. Needs root.

use std::error::Error;
use std::process::{Command, ExitCode};

use tests::node::{Entry, Rig, enter};

fn main() -> ExitCode {
    match enter(|| ()) {
        Entry::Outside(code) => code,
        Entry::Impossible(why) => {
            eprintln!("rig: {why}");
            ExitCode::FAILURE
        }
        Entry::Inside => match run() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(fault) => {
                eprintln!("rig: {fault}");
                ExitCode::FAILURE
            }
        },
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let rig = tokio::runtime::Runtime::new()?.block_on(Rig::start(&["a", "b"], &[]))?;
    eprintln!("rig: nodes a and b are ready; logs and files are in {}", rig.cluster().folder().display());
    let mut words = std::env::args_os().skip(1);
    let mut command = Command::new(words.next().unwrap_or_else(|| "bash".into()));
    Ok(command.args(words).env("KUBECONFIG", rig.cluster().kubeconfig()).status()?.success())
}
