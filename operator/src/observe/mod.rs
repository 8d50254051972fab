//! What a decision rests on, as plain data: the job as wished, what its status remembers, its members as they are.
//!
//! ```text
//!  World ─┬─ Job      what is wished: gangs, retries, deadlines, suspend
//!         ├─ Ledger   what is remembered: phase, attempts, restarts (it becomes the one status)
//!         ├─ Member…  what is there: a pod of the cluster or a process of this machine
//!         └─ Progress what rank 0 says
//! ```
//!
//! An endpoint has a world of its own ([`endpoint`]): its pods are a Deployment's.
//!
//! Who fills it differs (the API server's watches, or the children of `trainyard run`); who reads it is `decide` alone.

pub mod endpoint;
mod kinds;
mod ledger;
mod member;
mod memory;
pub mod node;
pub mod pod;
pub mod progress;
pub mod xid;

pub use kinds::Setting;
pub use ledger::{Attempt, Failure, FinalReason, Gang, Ledger, Obstacle, Origin, Stage};
pub use member::{End, Member, MemberId, MemberState};
pub use node::NodeFacts;
pub use progress::Mark;

pub use crds::status::Phase;

use std::collections::BTreeMap;

use crds::contract::Progress;
use crds::run_policy::ExitCode;
use crds::status::Placement;
use jiff::Timestamp;

/// All that `decide` knows, apart from the time.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// The job as wished.
    pub job: Job,
    /// What its status remembers.
    pub ledger: Ledger,
    /// Its members of every attempt, in no particular order.
    pub members: Vec<Member>,
    /// The newest progress, summed over the gangs; `None` if none was heard.
    pub progress: Option<Progress>,
    /// How far each gang was by its own last word.
    pub heard: BTreeMap<u32, Mark>,
    /// Since when whoever decides has been there to hear of it: that nothing was heard before says nothing.
    pub since: Timestamp,
    /// What the spec asks for without effect, in sentences; empty where all of it has one.
    pub warnings: String,
    /// The model of the TrainingJob that the job names, if it names one that has left it.
    pub model: Option<Origin>,
    /// Where a new attempt would go, or why it can't start now. `None` before it was asked for: most worlds need no place.
    pub place: Option<Result<Placement, Obstacle>>,
    /// The fingerprint of that place, where it is known.
    pub gate: Option<u64>,
    /// The attempt whose members this operator has let find one another; `None` if it has not, or has ended it since.
    pub connected: Option<u32>,
}

/// What a job wishes, whatever its kind: gangs of equal size, and how often and how long to try.
///
/// A TrainingJob is one gang of `nodes` members. A ScoringJob is `shards` gangs of one member each, so that a shard restarts
/// alone. Members are numbered through: gang `g` holds the members `g * gang_size` to `(g + 1) * gang_size - 1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// `TrainingJob` or `ScoringJob`.
    pub kind: String,
    /// Namespace; `local` without a cluster.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// When it was created, in seconds since 1970; `None` without a cluster.
    pub created: Option<i64>,
    /// Generation of the spec that all of this was read from.
    pub generation: i64,
    /// Fingerprint of what of the spec can't change once the job has started.
    pub spec: u64,
    /// Number of gangs, 1 or more.
    pub gangs: u32,
    /// Members of each gang, 1 or more.
    pub gang_size: u32,
    /// Gangs that may live at a time, 1 or more.
    pub parallelism: u32,
    /// Whether CPUs will do where there are no GPUs.
    pub is_auto: bool,
    /// Where the model or the rows go, as the manifest has it.
    pub output: String,
    /// Whether the job is to stand still.
    pub suspend: bool,
    /// Whether there is another node that a restart could go to.
    pub elsewhere: bool,
    /// Restarts of a gang that may cost budget before the job fails.
    pub backoff_limit: u32,
    /// What exit codes come to that are not Trainyard's contract: of a custom image; `None` of Trainyard's trainer.
    pub exit_codes: Option<Vec<ExitCode>>,
    /// Seconds that the job may be active, waiting for a place included, time suspended not.
    pub active_deadline_seconds: Option<u64>,
    /// Seconds without progress after which a gang that has reported some is restarted.
    pub stall_deadline_seconds: Option<u64>,
    /// Waiting time before a restart.
    pub backoff: Backoff,
    /// Seconds from a graceful stop to a forced one; `None` where the platform sees to it (the kubelet).
    pub grace_seconds: Option<u64>,
}

/// Waiting time before a restart: `first_seconds` doubled for each failure in a row without progress, `most_seconds` at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Seconds before the first restart.
    pub first_seconds: u64,
    /// Seconds at most.
    pub most_seconds: u64,
}

impl Job {
    /// Number of members of all gangs.
    pub fn members(&self) -> u32 {
        self.gangs * self.gang_size
    }

    /// Number of gangs that may live at a time.
    pub fn gangs_at_once(&self) -> u32 {
        self.gangs.min(self.parallelism).max(1)
    }

    /// The gang that a member belongs to.
    pub fn gang_of(&self, member: u32) -> u32 {
        member / self.gang_size
    }

    /// The members of a gang, the leader first.
    pub fn members_of(&self, gang: u32) -> std::ops::Range<u32> {
        gang * self.gang_size..(gang + 1) * self.gang_size
    }
}
