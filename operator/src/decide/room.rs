//! A gang that finds no room: what it fails by while it waits for some, and when it looks elsewhere.

use crds::contract::Cause;

use super::gang::blank;
use super::{Draft, after};
use crate::observe::{Failure, Gang, Member, Stage};

/// Seconds from the start of an attempt that finds no node until it is made anew for another place: nodes come and go in numbers,
/// and each change may be another place.
const MOVE_SECONDS: u64 = 30;

impl Draft<'_> {
    /// What a failure comes to in a gang that was never whole since others of it have found no node: they were waited for in vain,
    /// and that costs nothing.
    pub(super) fn excused(&self, record: &Gang, members: &[&Member], missing: usize, failure: Failure) -> Failure {
        let homeless = missing + members.iter().filter(|member| member.is_homeless()).count();
        let may_come_of_it = matches!(failure.cause, Cause::PeerLost | Cause::OtherRetryable);
        if record.stage != Stage::Starting || homeless == 0 || !may_come_of_it {
            return failure;
        }
        let (size, cause) = (self.world.job.gang_size, failure.cause);
        let message = format!("{homeless} of {size} pods had found no node yet ({cause:?}: {})", failure.message);
        Failure { cause: Cause::Preempted, message, ..failure }
    }

    /// Whether none of what the job has started finds a node, and what would start now would look for another one.
    pub(super) fn is_to_move(&self, members: &[&Member]) -> bool {
        let (Some(gate), Some(Ok(_))) = (self.world.gate, &self.world.place) else { return false };
        let is_elsewhere = |member: &&Member| member.place.is_some_and(|place| place != gate);
        members.iter().any(is_elsewhere) && self.world.ledger.is_homeless(&self.world.members)
    }

    /// Whether an attempt that finds no node has waited long enough to be made anew; says when to look again.
    pub(super) fn may_move(&mut self, record: &Gang) -> bool {
        let due = after(record.since, MOVE_SECONDS);
        if self.now < due {
            self.wake_at(due);
        }
        self.now >= due
    }
}

/// What an attempt ends by that is made anew for another place.
pub(super) fn moved(member: u32) -> Failure {
    let message = "no node was found for any of its pods, and they would now be made for other nodes".to_owned();
    Failure { cause: Cause::Preempted, message, ..blank(member) }
}
