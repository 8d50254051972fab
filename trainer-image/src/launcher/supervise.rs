//! Waits for the processes of a pod: passes signals on, stops all when one fails, kills what does not stop, reaps all.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use crds::contract::Cause;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::memory::OomKills;
use super::verdict::{ChildEnd, Class, Ending};

/// The processes that run, and those that ended.
pub(super) struct Supervisor {
    running: BTreeMap<Pid, u32>,
    ends: Vec<ChildEnd>,
    stop: Stop,
    interrupts: u32,
    stop_within: Duration,
    oom: OomKills,
    signals: Signals,
}

/// How far the stopping has come. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// Asked to; killed at this time.
    Asked(Instant),
    Killed,
}

struct Signals {
    child: Stream,
    terminate: Stream,
    interrupt: Stream,
    hang_up: Stream,
}

impl Supervisor {
    /// Listens to signals from here on. Must run in a Tokio runtime; `root` is `/`.
    ///
    /// # Errors
    /// Those of registering a handler.
    pub(super) fn new(stop_within: Duration, root: &Path) -> io::Result<Supervisor> {
        Ok(Supervisor {
            running: BTreeMap::new(),
            ends: Vec::new(),
            stop: Stop::No,
            interrupts: 0,
            stop_within,
            oom: OomKills::of_this_process(root),
            signals: Signals {
                child: signal(SignalKind::child())?,
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hang_up: signal(SignalKind::hangup())?,
            },
        })
    }

    /// Takes charge of a process. Nobody else may wait for it.
    pub(super) fn add(&mut self, rank: u32, child: &Child) {
        let pid = i32::try_from(child.id()).expect("a process number is a positive pid_t");
        self.running.insert(Pid::from_raw(pid), rank);
    }

    /// Waits until all have ended; gives the ends in order of time.
    pub(super) async fn run(&mut self) -> Vec<ChildEnd> {
        loop {
            // First of all: a process may have ended before anybody waited for the signal.
            self.reap();
            if self.running.is_empty() {
                return std::mem::take(&mut self.ends);
            }
            let deadline = match self.stop {
                Stop::Asked(deadline) => Some(deadline),
                Stop::No | Stop::Killed => None,
            };
            let too_late = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                _ = self.signals.child.recv() => {}
                _ = self.signals.terminate.recv() => self.ask_to_stop(Signal::SIGTERM, "SIGTERM"),
                // The terminal is gone, and with it whoever could press Ctrl-C.
                _ = self.signals.hang_up.recv() => self.ask_to_stop(Signal::SIGTERM, "SIGHUP"),
                _ = self.signals.interrupt.recv() => {
                    self.interrupts += 1;
                    if self.interrupts > 1 {
                        tracing::warn!("interrupted again: killing the processes");
                        self.kill_all();
                    } else {
                        self.ask_to_stop(Signal::SIGINT, "SIGINT");
                    }
                }
                () = too_late => {
                    let seconds = self.stop_within.as_secs();
                    tracing::warn!("{} processes did not stop within {seconds} s: killing them", self.running.len());
                    self.kill_all();
                }
            }
        }
    }

    /// Kills every process that still runs, and what it has started.
    pub(super) fn kill_all(&mut self) {
        self.stop = Stop::Killed;
        for &pid in self.running.keys() {
            // It may just have ended: then there is nothing to kill.
            let _ = killpg(pid, Signal::SIGKILL);
            // In the instant between fork and exec its group does not exist yet.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Passes a signal on to every process, unless they were asked before.
    fn ask_to_stop(&mut self, signal: Signal, why: &str) {
        if self.stop != Stop::No {
            return;
        }
        self.stop = Stop::Asked(Instant::now() + self.stop_within);
        tracing::info!("{why}: asking {} processes to stop", self.running.len());
        for &pid in self.running.keys() {
            // To the process alone: what it has started is its own to stop.
            let _ = kill(pid, signal);
        }
    }

    /// Reaps all that have ended: processes of ours, and those that were left to us.
    fn reap(&mut self) {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            match waitid(Id::All, peek) {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    if self.running.contains_key(&pid) {
                        // What it has started ends with it. While it is not reaped, its number can't be another's.
                        let _ = killpg(pid, Signal::SIGKILL);
                    }
                    self.take(pid, waitpid(pid, Some(WaitPidFlag::WNOHANG)));
                }
                Err(Errno::EINTR) => {}
                // Killed by a real-time signal, for which nix has no name: whose end it is must be asked one by one.
                Err(Errno::EINVAL) => {
                    for pid in self.running.keys().copied().collect::<Vec<_>>() {
                        self.take(pid, waitpid(pid, Some(WaitPidFlag::WNOHANG)));
                    }
                    // If it was none of ours, this reaps it.
                    if let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG))
                        && let Some(pid) = status.pid()
                    {
                        self.take(pid, Ok(status));
                    }
                }
                // None has ended, or there is none.
                _ => return,
            }
        }
    }

    /// Notes the end of a process, if it is one of ours; the first failure stops the others.
    fn take(&mut self, pid: Pid, status: nix::Result<WaitStatus>) {
        let ending = match status {
            Ok(WaitStatus::Exited(_, code)) => Ending::Code(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Ending::Signal(signal as i32),
            // Reaped, by a signal without a name.
            Err(Errno::EINVAL) => Ending::Code(Cause::OtherRetryable.exit_code()),
            _ => return,
        };
        let Some(rank) = self.running.remove(&pid) else { return };
        let killed = self.stop == Stop::Killed;
        let out_of_memory = ending == Ending::Signal(Signal::SIGKILL as i32) && !killed && self.oom.rose();
        let end = ChildEnd { rank, ending, asked_to_stop: self.stop != Stop::No, killed, out_of_memory };
        if end.class() != Class::Completed && self.stop == Stop::No && !self.running.is_empty() {
            tracing::warn!("{}: stopping the others", end.describe());
            self.ask_to_stop(Signal::SIGTERM, "a process failed");
        }
        self.ends.push(end);
    }
}
