//! The process's half of "no orphan": it asks the kernel to be killed when whoever started it dies.

use crds::contract::{Cause, env};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use crate::fault::Fault;

/// Makes the kernel kill this process when its parent dies, however it dies. Call it first of all in `main`, in a process
/// that has no purpose without its parent. SIGKILL, because a process without its peers has nothing left to finish, and
/// checkpoints are committed atomically.
///
/// The kernel takes the *thread* that started this process for its parent: start processes from a thread that lives as
/// long as they do, not from one of a pool that shrinks.
///
/// # Errors
/// A fault if the parent that the environment names ([`env::PARENT_PID`]) is dead already, or if the kernel refuses.
pub fn die_with_parent() -> Result<(), Fault> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| Fault::new(Cause::Bug, "can't tie this process to its parent").source(error))?;
    // It may have died before the call above: then nobody will tell.
    let expected = std::env::var(env::PARENT_PID).ok().and_then(|pid| pid.trim().parse::<i32>().ok());
    match expected {
        Some(parent) if parent != getppid().as_raw() => {
            Err(Fault::new(Cause::PeerLost, format!("the process that started this one ({parent}) is gone")))
        }
        _ => Ok(()),
    }
}
