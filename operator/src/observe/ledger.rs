//! What a job's status remembers between two decisions: enough to take the world as it is after a crash, and no more.

use std::collections::{BTreeMap, BTreeSet};

use crds::contract::{Cause, JobResult, Progress};
use crds::reasons::reason;
use crds::status::Placement;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Mark, Member, MemberState, Phase};

/// The memory of a job. It grows with `parallelism`, never with the number of attempts or shards that are done
/// (those are kept as numbers).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// Where the job stands.
    pub phase: Phase,
    /// The same in a sentence for people.
    pub message: String,
    /// Generation of the spec that this was decided on.
    pub observed_generation: i64,
    /// Highest number of an attempt so far; 0 before the first.
    pub attempt: u32,
    /// Attempts after the first one of each gang.
    pub restarts: u32,
    /// Ends of attempts of any gang that count against `backoffLimit`.
    pub failures: u32,
    /// When the first attempt started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When the job succeeded or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Timestamp>,
    /// Seconds active before the present span.
    pub active_seconds: u64,
    /// Start of the present span of activity; `None` while suspended or finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_since: Option<Timestamp>,
    /// The gangs that have started and are not done, by number.
    pub gangs: BTreeMap<u32, Gang>,
    /// Numbers of the gangs that are done.
    pub done: BTreeSet<u32>,
    /// Attempts that have ended: the first one and the last nine.
    pub attempts: Vec<Attempt>,
    /// The newest progress written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// When it was written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_at: Option<Timestamp>,
    /// Whether a gang stood still for too long and has not been heard of since.
    pub stalled: bool,
    /// The newest attempt of which it was told that its members don't start.
    pub waits_told: u32,
    /// What the gangs that are done left behind, summed up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// Why the job failed for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<(FinalReason, Failure)>,
    /// Nodes that no attempt goes to, with the time from which they may be used again; `None`: never again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub excluded: BTreeMap<String, Option<Timestamp>>,
    /// Why no attempt can start now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<Obstacle>,
    /// When that, or another one of its reason, was told last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle_told: Option<Timestamp>,
    /// When a sentence was written down that alone had changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reworded: Option<Timestamp>,
    /// When a job of many gangs was written down last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gathered: Option<Timestamp>,
    /// Where the newest attempt was placed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Whether the scheduler finds no node for a pod now.
    pub unplaced: bool,
    /// What the spec asks for without effect, in sentences.
    pub warnings: String,
    /// The model that the job started from, if it names a TrainingJob: whatever becomes of that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Origin>,
}

/// The model of a TrainingJob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Name of the TrainingJob.
    pub training_job: String,
    /// URI of its model, as its manifest names it.
    pub uri: String,
    /// The claims that its data lies on, for a job that trains on the same data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
}

/// Why no attempt can start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Obstacle {
    /// Reason of the condition `Schedulable`.
    pub reason: String,
    /// The same in a sentence.
    pub message: String,
    /// What the job fails by, if waiting can't help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails_by: Option<Cause>,
}

/// The memory of one gang.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gang {
    /// Number of its newest attempt, from 1.
    pub attempt: u32,
    /// When that attempt began: its members were made from then on.
    pub since: Timestamp,
    /// When the first of them was taken by its node, once all have run or it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_since: Option<Timestamp>,
    /// Where that attempt stands.
    pub stage: Stage,
    /// How far it was when that was written down last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_at: Option<Timestamp>,
    /// Ends of its attempts that count against `backoffLimit`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Failures in a row without progress between them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub streak: u32,
    /// Furthest step or row when the last failure was counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub streak_step: u64,
    /// Whether it stood still for too long and has not been heard of since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stalled: bool,
    /// Whether the members of that attempt were made for another spec than the job has, or for another place than there is now: how
    /// they end says nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outdated: bool,
}

fn is_zero<T: Default + PartialEq>(count: &T) -> bool {
    *count == T::default()
}

/// Where a gang's newest attempt stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "name")]
pub enum Stage {
    /// Its members are being started; what is missing is to be made.
    Starting,
    /// All of its members have run; what is missing is lost.
    Running,
    /// A member has failed; the others are being stopped.
    Failing {
        /// What is known of it so far.
        failure: Failure,
    },
    /// It has ended and is accounted for; the next attempt may start at the time given.
    Waiting {
        /// Not before then.
        not_before: Timestamp,
    },
}

/// Why an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The cause.
    pub cause: Cause,
    /// The shard that it ended an attempt of, where there are several; `None` of one that is the job's as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
    /// Number of the member at fault.
    pub member: u32,
    /// Its exit code, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Rank of the process at fault, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// Its node, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Step reached, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What to do about it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FinalReason {
    /// The cause is permanent.
    Permanent,
    /// The cause asks for another node and there is none.
    NowhereElse,
    /// `backoffLimit` restarts are spent.
    BackoffLimitExceeded,
    /// The model that the job needs will never be there.
    ModelMissing,
    /// The job was active for longer than it may.
    DeadlineExceeded,
}

/// One attempt that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Its number.
    pub number: u32,
    /// Number of its gang, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
    /// When the first of its members started; `None` if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// When it had ended.
    pub end: Timestamp,
    /// Why; the cause `Completed` where it was done.
    pub failure: Failure,
}

impl Gang {
    /// The memory of a gang whose attempt of this number has begun at that time.
    pub fn new(attempt: u32, since: Timestamp) -> Gang {
        Gang {
            attempt,
            since,
            ran_since: None,
            stage: Stage::Starting,
            mark: None,
            moved_at: None,
            failures: 0,
            streak: 0,
            streak_step: 0,
            stalled: false,
            outdated: false,
        }
    }

    /// The same gang in its next attempt.
    pub fn again(&self, attempt: u32, since: Timestamp) -> Gang {
        let (failures, streak, streak_step) = (self.failures, self.streak, self.streak_step);
        Gang { failures, streak, streak_step, stalled: self.stalled, ..Gang::new(attempt, since) }
    }
}

impl Failure {
    /// A failure of the job as a whole, of which nothing is known yet but that it is one.
    pub fn of_job() -> Failure {
        Failure {
            cause: Cause::OtherPermanent,
            shard: None,
            member: 0,
            exit_code: None,
            rank: None,
            node: None,
            step: None,
            message: String::new(),
            hint: String::new(),
        }
    }
}

impl Ledger {
    /// Whether the scheduler finds no node for the members under way, for none of them: they could go elsewhere at no loss.
    pub fn is_homeless(&self, members: &[Member]) -> bool {
        let mut under_way = self.gangs.values().filter(|gang| !matches!(gang.stage, Stage::Waiting { .. }));
        let is_idle = |member: &Member| {
            member.state == MemberState::Pending && member.node.is_none() && member.stopping_since.is_none()
        };
        under_way.all(|gang| gang.stage == Stage::Starting)
            && members.iter().filter(|member| member.is_live()).all(is_idle)
            && members.iter().any(Member::is_homeless)
    }

    /// Seconds that the job has been active until `now`.
    pub fn active_until(&self, now: Timestamp) -> u64 {
        let present = self.active_since.map_or(0, |since| now.as_second().saturating_sub(since.as_second()).max(0));
        self.active_seconds + present.unsigned_abs()
    }

    /// Why the job has failed for good, in a word.
    pub fn failed_for(&self) -> String {
        match &self.failure {
            Some((FinalReason::BackoffLimitExceeded, _)) => reason::BACKOFF_LIMIT_EXCEEDED.to_owned(),
            Some((FinalReason::DeadlineExceeded, _)) => reason::DEADLINE_EXCEEDED.to_owned(),
            Some((FinalReason::ModelMissing, _)) => reason::MODEL_MISSING.to_owned(),
            Some((_, failure)) => format!("{:?}", failure.cause),
            None => reason::BAD_SPEC.to_owned(),
        }
    }
}
