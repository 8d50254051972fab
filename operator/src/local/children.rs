//! Members as processes of this machine: started, stopped, and seen to end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crds::contract::{Cause, TerminationMessage, env};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::error::RunError;
use super::folder::JobFolder;
use crate::build::member::COMMAND;
use crate::decide::How;
use crate::observe::{End, Job, Ledger, Member, MemberId, MemberState, Stage};

/// The processes of a job.
#[derive(Debug, Default)]
pub(crate) struct Children {
    members: BTreeMap<MemberId, Process>,
}

#[derive(Debug)]
struct Process {
    /// `None` for one of an earlier run.
    child: Option<Child>,
    /// Its share of the machine's GPUs: no two that live have the same.
    slot: u32,
    member: Member,
}

impl Children {
    /// What is left of the members that an earlier run left without an end: it was killed, and they died with it.
    ///
    /// One that had said why it ended before that is taken at its word; the others were as good as preempted.
    pub(crate) fn left_over(folder: &JobFolder, job: &Job, ledger: &Ledger, now: Timestamp) -> Children {
        let mut members = BTreeMap::new();
        let unfinished = ledger.gangs.iter().filter(|(_, gang)| !matches!(gang.stage, Stage::Waiting { .. }));
        for (number, gang) in unfinished {
            for index in job.members_of(*number) {
                let id = MemberId { attempt: gang.attempt, index };
                let said = read_termination(&folder.termination(id));
                let code = said.as_ref().map_or(Cause::Preempted, |said| said.cause).exit_code();
                let said_nothing = said.is_none();
                let mut end = End::from_exit(code, said, now);
                if said_nothing {
                    end.exit_code = None;
                    end.message = "trainyard was ended, and its processes with it".to_owned();
                }
                let state = MemberState::Ended(end);
                let member = Member { started: gang.ran_since, ..Member::new(id, String::new(), state) };
                members.insert(id, Process { child: None, slot: 0, member });
            }
        }
        Children { members }
    }

    /// Whether there is such a member.
    pub(crate) fn has(&self, id: MemberId) -> bool {
        self.members.contains_key(&id)
    }

    /// The first share of the machine that no living member has.
    pub(crate) fn free_slot(&self) -> u32 {
        let taken = |slot: u32| self.members.values().any(|process| process.member.is_live() && process.slot == slot);
        (0..).find(|slot| !taken(*slot)).unwrap_or_default()
    }

    /// Starts a member.
    ///
    /// # Errors
    /// [`RunError::Io`] if the process or its files can't be made.
    pub(crate) fn start(
        &mut self,
        id: MemberId,
        folder: &JobFolder,
        trainer: &Path,
        environment: BTreeMap<String, String>,
        slot: u32,
    ) -> Result<(), RunError> {
        let attempt = folder.attempt(id.attempt);
        fs::create_dir_all(&attempt).map_err(RunError::io("make the folder", &attempt))?;
        let termination = absolute(&folder.termination(id))?;
        match fs::remove_file(&termination) {
            Err(fault) if fault.kind() != std::io::ErrorKind::NotFound => {
                return Err(RunError::io("remove", &termination)(fault));
            }
            _ => {}
        }
        let path = folder.log(id);
        let log = File::create(&path).map_err(RunError::io("write", &path))?;
        let errors = log.try_clone().map_err(RunError::io("write", &path))?;
        let child = Command::new(trainer)
            .args(COMMAND)
            .arg("--die-with-parent")
            .envs(environment)
            .env(env::TERMINATION_LOG, &termination)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // A group of its own: the terminal's Ctrl-C is for us, who pass it on as SIGTERM.
            .process_group(0)
            .spawn()
            .map_err(RunError::io("start", trainer))?;
        let uid = child.id().to_string();
        let member = Member { started: Some(Timestamp::now()), ..Member::new(id, uid, MemberState::Running) };
        self.members.insert(id, Process { child: Some(child), slot, member });
        Ok(())
    }

    /// Stops a member, or forgets one that has ended. The UID is the process id: one that has ended meanwhile gets no signal.
    pub(crate) fn stop(&mut self, id: MemberId, how: How, now: Timestamp) {
        let Some(process) = self.members.get_mut(&id) else { return };
        if how == How::Clear {
            self.members.remove(&id);
            return;
        }
        let pid = process.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw);
        let Some(pid) = pid.filter(|_| process.member.is_live()) else { return };
        process.member.stopping_since.get_or_insert(now);
        // It is not reaped yet, so the number is still its own. That it has ended already is no fault.
        let _ = if how == How::ByForce { killpg(pid, Signal::SIGKILL) } else { kill(pid, Signal::SIGTERM) };
    }

    /// Sees which members have ended.
    pub(crate) fn reap(&mut self, folder: &JobFolder, now: Timestamp) {
        for process in self.members.values_mut().filter(|process| process.member.is_live()) {
            let Some(child) = process.child.as_mut() else { continue };
            let Some(group) = i32::try_from(child.id()).ok().map(Pid::from_raw) else { continue };
            let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            if matches!(waitid(Id::Pid(group), peek), Ok(WaitStatus::StillAlive)) {
                continue;
            }
            // What it leaves behind dies with it. Until it is reaped the number of its group is its own.
            let _ = killpg(group, Signal::SIGKILL);
            let ended = match child.wait() {
                Ok(status) => {
                    let said = read_termination(&folder.termination(process.member.id));
                    End::from_exit(exit_code(status), said, now)
                }
                Err(fault) => End {
                    message: format!("can't wait for the process {}: {fault}", process.member.uid),
                    ..End::from_exit(Cause::OtherRetryable.exit_code(), None, now)
                },
            };
            process.member.state = MemberState::Ended(ended);
        }
    }

    /// The members as they are.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.members.values().map(|process| process.member.clone()).collect()
    }

    /// Whether one lives.
    pub(crate) fn any_live(&self) -> bool {
        self.members.values().any(|process| process.member.is_live())
    }

    /// Kills what lives.
    pub(crate) fn kill(&mut self, now: Timestamp) {
        let live: Vec<MemberId> =
            self.members.values().filter(|process| process.member.is_live()).map(|process| process.member.id).collect();
        for id in live {
            self.stop(id, How::ByForce, now);
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for process in self.members.values_mut() {
            let Some(child) = process.child.as_mut().filter(|_| process.member.is_live()) else { continue };
            if let Ok(group) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            let _ = child.wait();
        }
    }
}

/// A port of the loopback interface that is free now.
///
/// # Errors
/// [`RunError::Io`] if there is none.
pub(crate) fn free_port() -> Result<u16, RunError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(RunError::io("get a free port of", "127.0.0.1"))
}

/// The shell's convention: 128 and the number of the signal that ended it.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

fn read_termination(path: &Path) -> Option<TerminationMessage> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

fn absolute(path: &Path) -> Result<PathBuf, RunError> {
    std::path::absolute(path).map_err(RunError::io("find", path))
}
