//! The process's half of "no orphan": it asks the kernel to be killed when its launcher dies.

use crds::contract::Cause;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use crate::fault::Fault;

/// Names the launcher to the processes that it starts.
pub(super) const LAUNCHER_PID: &str = "TRAINYARD_LAUNCHER_PID";

/// Makes the kernel kill this process when its launcher dies, however it dies. Without a launcher nothing happens. Call
/// it first of all in `main`. SIGKILL, because a process without its peers has nothing left to finish, and checkpoints
/// are committed atomically.
///
/// # Errors
/// A fault if the launcher is dead already, or if the kernel refuses.
pub fn die_with_parent() -> Result<(), Fault> {
    let Some(launcher) = std::env::var(LAUNCHER_PID).ok().and_then(|pid| pid.parse::<i32>().ok()) else {
        return Ok(());
    };
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| Fault::new(Cause::Bug, "can't tie this process to its launcher").source(error))?;
    // It may have died before the call above: then nobody will tell.
    if getppid().as_raw() != launcher {
        return Err(Fault::new(Cause::PeerLost, format!("the launcher (process {launcher}) is gone")));
    }
    Ok(())
}
