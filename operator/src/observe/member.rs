//! A member of a gang as it is: one pod of the cluster, or one process of this machine.

use crds::contract::{Cause, JobResult, TerminationMessage};
use jiff::Timestamp;

/// Which member of which attempt: the deterministic part of a pod's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId {
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Number of the member in the job, from 0.
    pub index: u32,
}

/// One member that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Which one.
    pub id: MemberId,
    /// UID of the pod, or the process id; a precondition of every deletion.
    pub uid: String,
    /// How it fares.
    pub state: MemberState,
    /// Since when it is being stopped, if it is.
    pub stopping_since: Option<Timestamp>,
    /// Name of its node, where known.
    pub node: Option<String>,
    /// When its node took it, where known.
    pub started: Option<Timestamp>,
    /// Fingerprint of the spec that it was made for, where known.
    pub spec: Option<u64>,
    /// Fingerprint of the place that it was made for, where known.
    pub place: Option<u64>,
    /// Whether the scheduler finds no node for it now.
    pub unplaced: bool,
    /// Whether its node has been getting it ready for long.
    pub preparing: bool,
    /// Why it does not run yet, as the platform says; empty where there is nothing to say.
    pub waiting: String,
}

/// How a member fares.
#[derive(Clone, Debug, PartialEq)]
pub enum MemberState {
    /// It exists and does not run yet.
    Pending,
    /// It runs.
    Running,
    /// It is there and will never run: it failed, and is to be stopped.
    Stuck(End),
    /// Its node is no more, and took it along; a newer attempt fences it off, should both come back.
    Gone,
    /// Its node can't be reached, beyond the bound: whether it lives is unknown, a newer attempt fences it off.
    Unreachable,
    /// It has ended.
    Ended(End),
}

/// How a member ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Why, by exit code, message and platform.
    pub cause: Cause,
    /// Exit code, where there was one.
    pub exit_code: Option<i32>,
    /// When.
    pub at: Timestamp,
    /// Rank of the process at fault, where known.
    pub rank: Option<u32>,
    /// Optimizer steps or rows done, where known.
    pub step: Option<u64>,
    /// What went wrong: a sentence; may be empty.
    pub message: String,
    /// What to do about it: a sentence; may be empty.
    pub hint: String,
    /// What a completed job left behind.
    pub result: Option<JobResult>,
    /// Whether its pod goes on without it, since a container beside it runs: it holds what it holds until it is deleted.
    pub lingers: bool,
    /// Whether the process itself said why, by the contract.
    pub is_explained: bool,
}

impl Member {
    /// A member of which no more is known.
    pub fn new(id: MemberId, uid: String, state: MemberState) -> Member {
        let (stopping_since, node, started, spec, place) = (None, None, None, None, None);
        let (unplaced, preparing, waiting) = (false, false, String::new());
        Member { id, uid, state, stopping_since, node, started, spec, place, unplaced, preparing, waiting }
    }

    /// Whether it has no node, and no scheduler that was asked to knows one. What a queue holds back nobody has looked for.
    pub fn is_homeless(&self) -> bool {
        self.node.is_none() && self.unplaced && self.is_live() && !self.is_gated()
    }

    /// Whether a queue holds it back.
    pub fn is_gated(&self) -> bool {
        self.waiting.starts_with("SchedulingGated")
    }

    /// Whether its pod has to be deleted for its GPUs to be free, though it has ended.
    pub fn lingers(&self) -> bool {
        self.stopping_since.is_none() && self.end().is_some_and(|end| end.lingers)
    }

    /// Whether it may still do something. An unreachable member is fenced off by the next attempt's number instead.
    pub fn is_live(&self) -> bool {
        matches!(self.state, MemberState::Pending | MemberState::Running | MemberState::Stuck(_))
    }

    /// How it ended, if it did.
    pub fn end(&self) -> Option<&End> {
        match &self.state {
            MemberState::Ended(end) => Some(end),
            _ => None,
        }
    }
}

impl End {
    /// The end that an exit code and a termination message tell of.
    ///
    /// The exit code decides, since it can't be forged by a half-written file; the message's cause is taken only where the code
    /// has no meaning of its own.
    pub fn from_exit(exit_code: i32, said: Option<TerminationMessage>, at: Timestamp) -> End {
        let by_code = Cause::from_exit_code(exit_code);
        let cause = match (by_code, &said) {
            (Cause::OtherPermanent | Cause::OtherRetryable, Some(said)) if said.cause != Cause::Completed => said.cause,
            _ => by_code,
        };
        let end = End {
            cause,
            exit_code: Some(exit_code),
            at,
            rank: None,
            step: None,
            message: String::new(),
            hint: String::new(),
            result: None,
            lingers: false,
            is_explained: said.is_some(),
        };
        match said {
            Some(said) => End {
                rank: said.rank,
                step: said.step,
                message: said.message,
                hint: said.hint,
                result: said.result.filter(|_| cause == Cause::Completed),
                ..end
            },
            None if cause == Cause::Completed => end,
            None => End { message: unexplained(exit_code, cause), ..end },
        }
    }
}

/// What can be said of an exit code that came without a message.
fn unexplained(exit_code: i32, cause: Cause) -> String {
    match exit_code {
        137 => "killed (SIGKILL), by a person or for want of memory".to_owned(),
        143 => "stopped (SIGTERM)".to_owned(),
        code if cause == Cause::OtherRetryable && (129..192).contains(&code) => {
            format!("ended by signal {} without a word", code - 128)
        }
        code => format!("exited with code {code} without a word"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(cause: Cause) -> TerminationMessage {
        TerminationMessage {
            contract_version: 1,
            cause,
            rank: Some(1),
            node: None,
            step: Some(7),
            message: "said".to_owned(),
            hint: String::new(),
            result: None,
        }
    }

    #[test]
    fn the_exit_code_decides_and_the_message_explains() {
        let at = Timestamp::UNIX_EPOCH;
        for (code, message, cause) in [
            (0, None, Cause::Completed),
            (64, None, Cause::BadSpec),
            (64, Some(said(Cause::BadData)), Cause::BadSpec),
            (137, None, Cause::OtherRetryable),
            (137, Some(said(Cause::HostMemory)), Cause::HostMemory),
            (1, Some(said(Cause::Completed)), Cause::OtherPermanent),
            (143, None, Cause::Preempted),
        ] {
            assert_eq!(End::from_exit(code, message.clone(), at).cause, cause, "{code} {message:?}");
        }
    }
}
