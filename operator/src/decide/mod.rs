//! What to do about a world: a pure function, the same for pods and for processes.
//!
//! ```text
//!  decide ─┬─ gang     one gang: adopt, complete, fail, stop what is left, account for it
//!          ├─ room     a gang that finds no node, or not for all of it
//!          ├─ launch   which gangs start now, under parallelism, backoff and suspension
//!          ├─ progress how far each gang is, and which stand still
//!          ├─ account  time, phase and message of the job as a whole
//!          ├─ words    what people are told of an attempt
//!          ├─ hold     what is not written down at once
//!          └─ policy, backoff   what each cause comes to, and after how long
//! ```
//!
//! Endpoints have a decision of their own ([`endpoint`]).
//!
//! Its rules hold whatever the order in which things are seen, and after a crash between any two writes:
//! - a member's attempt is at most one ahead of the ledger's, and is then adopted: only we make members;
//! - an end counts when the ledger closes the attempt, once for each attempt of each gang;
//! - before the first status is written the spec may still change: an attempt that was made for another one is torn down at no cost;
//! - a gang's next attempt starts when the end of the last one is written down and no member of an older one lives; one that can't be reached is fenced off by its number;
//! - a terminal phase is a latch: what still lives is stopped, nothing else ever changes;
//! - what lives is stopped once the ledger says why: after a crash in between it would be taken for lost.

mod account;
mod backoff;
pub mod endpoint;
mod gang;
mod hold;
mod launch;
mod plan;
mod policy;
mod progress;
mod room;
#[cfg(test)]
pub(crate) mod tests;
mod words;

pub use plan::{Event, How, Plan, Stop};

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::observe::{Ledger, Member, MemberId, MemberState, World};
use crds::status::Phase;

/// What to do about `world` at `now`.
pub fn decide(world: &World, now: Timestamp) -> Plan {
    let mut draft = Draft::new(world, now);
    if draft.ledger.phase.is_terminal() {
        draft.clear_away();
        return draft.finish();
    }
    draft.readmit();
    draft.take_time();
    draft.take_progress();
    for gang in 0..world.job.gangs {
        draft.settle(gang);
    }
    draft.stop_strays();
    draft.check_deadlines();
    draft.check_place();
    draft.conclude();
    if draft.ledger.phase.is_terminal() {
        draft.latch();
    } else if !world.job.suspend {
        draft.launch();
    }
    draft.connect();
    draft.describe();
    draft.finish()
}

/// A decision in the making.
struct Draft<'a> {
    world: &'a World,
    /// The members of each gang, of all attempts.
    gangs: BTreeMap<u32, Vec<&'a Member>>,
    now: Timestamp,
    ledger: Ledger,
    plan: Plan,
}

impl<'a> Draft<'a> {
    fn new(world: &'a World, now: Timestamp) -> Draft<'a> {
        let mut gangs: BTreeMap<u32, Vec<&Member>> = BTreeMap::new();
        for member in &world.members {
            gangs.entry(world.job.gang_of(member.id.index)).or_default().push(member);
        }
        Draft { world, gangs, now, ledger: world.ledger.clone(), plan: Plan::default() }
    }

    /// The members of a gang, of all attempts.
    fn members_of(&self, gang: u32) -> impl Iterator<Item = &'a Member> + use<'a, '_> {
        self.gangs.get(&gang).into_iter().flatten().copied()
    }

    /// The members that the job has no gang for: they were made before its spec was changed.
    fn strays(&self) -> impl Iterator<Item = &'a Member> + use<'a, '_> {
        self.gangs.range(self.world.job.gangs..).flat_map(|(_, members)| members).copied()
    }

    /// Whether a member of an attempt before this one lives.
    fn has_older_live(&self, gang: u32, attempt: u32) -> bool {
        self.members_of(gang).any(|member| member.is_live() && member.id.attempt < attempt)
    }

    /// Stops the members that the job has no gang for.
    fn stop_strays(&mut self) {
        let strays: Vec<&Member> = self.strays().collect();
        strays.into_iter().for_each(|member| self.stop(member));
    }

    /// Stops a member in the way that its state asks for; says when to look again.
    fn stop(&mut self, member: &Member) {
        let how = match (&member.state, member.stopping_since) {
            (MemberState::Ended(_), _) => How::Clear,
            (MemberState::Unreachable | MemberState::Gone, _) => How::ByForce,
            (_, None) => How::Gracefully,
            (_, Some(since)) => match self.world.job.grace_seconds {
                None => return,
                Some(grace) => {
                    let end = after(since, grace);
                    if self.now < end {
                        return self.wake_at(end);
                    }
                    How::ByForce
                }
            },
        };
        self.plan.stop.push(Stop { id: member.id, uid: member.uid.clone(), how });
    }

    /// Stops what still lives of a job that has come to its end. What has ended stays, for its logs, unless its pod goes on without it.
    fn clear_away(&mut self) {
        for member in self.world.members.iter().filter(|member| member.is_live() || member.lingers()) {
            self.stop(member);
        }
    }

    /// The job has come to its end just now: that is written down before anything that lives is stopped for it.
    fn latch(&mut self) {
        self.plan.stop.retain(|stop| stop.how == How::Clear);
        if self.world.members.iter().any(|member| member.is_live() || member.lingers()) {
            self.wake_at(self.now);
        }
    }

    fn start(&mut self, id: MemberId) {
        self.plan.start.push(id);
    }

    fn tell(&mut self, warning: bool, reason: &str, note: impl Into<String>) {
        self.plan.events.push(Event { warning, reason: reason.to_owned(), note: note.into() });
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.plan.wake = Some(self.plan.wake.map_or(at, |earlier| earlier.min(at)));
    }

    fn finish(mut self) -> Plan {
        self.hold_words();
        if let Some(later) = self.gathered() {
            return later;
        }
        if self.ledger != self.world.ledger {
            let comes_to_run = self.ledger.phase == Phase::Running && self.world.ledger.phase != Phase::Running;
            self.plan.protect = comes_to_run && self.world.job.gang_size > 1;
            self.plan.ledger = Some(self.ledger);
        } else {
            self.plan.events.clear();
        }
        self.plan
    }
}

/// `seconds` after `time`; the end of time if that is beyond it.
fn after(time: Timestamp, seconds: u64) -> Timestamp {
    let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    time.checked_add(seconds).unwrap_or(Timestamp::MAX)
}
