//! One gang: all its members live in one attempt, or none do.

use crds::contract::Cause;
use crds::reasons::reason;
use crds::status::{NODES_KEPT, Phase};
use jiff::Timestamp;

use super::room::moved;
use super::words::{what_happened, with_hint};
use super::{Draft, How, after, backoff, policy};
use crate::observe::{Attempt, Failure, FinalReason, Gang, Job, Member, MemberId, MemberState, Stage};

/// Seconds that the other members of a gang get to end by themselves once its leader has completed.
const LINGER_SECONDS: u64 = 30;
/// Seconds for which a node at fault is left out: one where a process met the fault, and one that could not take or keep it, of
/// which it is soon known whether it still can't.
const EXCLUSION_SECONDS: u64 = 3600;
const REFUSAL_SECONDS: u64 = 600;
/// Seconds within which an attempt that ended by no fault of its own makes the next one wait.
const HASTY_SECONDS: u64 = 600;
/// Ended attempts that the history keeps besides the first.
const ATTEMPTS_KEPT: usize = crds::status::ATTEMPTS_KEPT - 1;

impl Draft<'_> {
    /// Brings what is remembered of a gang up to what is seen of it, and stops what should not live.
    pub(super) fn settle(&mut self, gang: u32) {
        self.adopt(gang);
        let Some(record) = self.ledger.gangs.get(&gang).cloned() else {
            // What is done is written down.
            let lingering: Vec<&Member> = self.members_of(gang).filter(|member| member.lingers()).collect();
            return lingering.into_iter().for_each(|member| self.stop(member));
        };
        let (mut older, mut members) = (Vec::new(), Vec::new());
        for member in self.members_of(gang) {
            let group = if member.id.attempt < record.attempt { &mut older } else { &mut members };
            group.push(member);
        }
        let witness = witness(&older, record.attempt);
        older.into_iter().filter(|member| Some(&member.uid) != witness.as_ref()).for_each(|member| self.stop(member));
        members.sort_by_key(|member| member.id.index);
        match &record.stage {
            Stage::Waiting { .. } => {
                let stops = |member: &&&Member| member.is_live() || member.lingers();
                members.iter().filter(stops).for_each(|member| self.stop(member));
            }
            Stage::Failing { failure } => {
                let refined = members
                    .iter()
                    .filter(|member| !ended_as_told(member))
                    .filter_map(|member| failure_of(&self.world.job, member))
                    // One that we stopped is news only where stopping was all that happened: it tells the step.
                    .filter(|other| other.cause != Cause::Preempted || failure.cause == Cause::Preempted)
                    .chain([failure.clone()])
                    .min_by_key(|failure| policy::rank(failure.cause));
                let refined = refined.filter(|_| !record.outdated);
                self.tear_down(gang, &record, &members, refined.unwrap_or_else(|| failure.clone()));
            }
            Stage::Starting | Stage::Running => self.watch(gang, &record, &members),
        }
    }

    /// Takes over members of an attempt that the ledger doesn't know yet: we made them and were cut off before writing it down.
    fn adopt(&mut self, gang: u32) {
        let Some(newest) = self.members_of(gang).map(|member| member.id.attempt).max() else { return };
        let known = self.ledger.gangs.get(&gang).map_or(0, |record| record.attempt);
        if newest <= known || self.ledger.done.contains(&gang) {
            return;
        }
        self.open(gang, newest);
        let of_another = |spec| spec != self.world.job.spec;
        let outdated =
            self.members_of(gang).any(|member| member.id.attempt == newest && member.spec.is_some_and(of_another));
        if let Some(record) = self.ledger.gangs.get_mut(&gang).filter(|_| outdated) {
            let message = "the spec was changed after its pods were made".to_owned();
            let failure = Failure { cause: Cause::Preempted, message, ..blank(gang * self.world.job.gang_size) };
            (record.stage, record.outdated) = (Stage::Failing { failure }, true);
        }
    }

    /// Writes down that a gang's attempt has begun.
    pub(super) fn open(&mut self, gang: u32, attempt: u32) {
        let ledger = &mut self.ledger;
        let before = ledger.gangs.get(&gang);
        ledger.restarts += u32::from(before.is_some());
        let record = before.map_or_else(|| Gang::new(attempt, self.now), |before| before.again(attempt, self.now));
        ledger.attempt = ledger.attempt.max(attempt);
        ledger.start_time.get_or_insert(self.now);
        ledger.gangs.insert(gang, record);
    }

    /// A gang that lives: has it completed, has a member failed, is one missing?
    fn watch(&mut self, gang: u32, record: &Gang, members: &[&Member]) {
        let leader_completed = members
            .first()
            .filter(|member| member.id.index == gang * self.world.job.gang_size)
            .and_then(|member| member.end())
            .filter(|end| end.cause == Cause::Completed);
        if let Some(end) = leader_completed {
            let live: Vec<&&Member> = members.iter().filter(|member| member.is_live()).collect();
            let patience = after(end.at, LINGER_SECONDS);
            // Nothing of this attempt is made any more, even if its leader's pod is deleted before all is done.
            self.restage(gang, record, members, Stage::Running);
            if live.is_empty() {
                self.complete(gang, record, members);
            } else if self.now >= patience || self.world.job.suspend {
                live.into_iter().for_each(|member| self.stop(member));
            } else {
                self.wake_at(patience);
            }
            return;
        }
        let missing: Vec<u32> = self
            .world
            .job
            .members_of(gang)
            .filter(|index| members.iter().all(|member| member.id.index != *index))
            .collect();
        // While the job is suspended nothing is lost: it was to be stopped.
        let lost = record.stage == Stage::Running && !self.world.job.suspend;
        let failure = members
            .iter()
            .filter_map(|member| failure_of(&self.world.job, member))
            .chain(missing.iter().filter(|_| lost).map(|index| vanished(*index)))
            .min_by_key(|failure| policy::rank(failure.cause));
        let stage = match failure {
            Some(failure) => {
                let failure = self.excused(record, members, missing.len(), failure);
                return self.tear_down(gang, record, members, failure);
            }
            None if self.world.job.suspend => return self.tear_down(gang, record, members, suspended(gang)),
            None if missing.is_empty() && members.iter().all(|member| member.state != MemberState::Pending) => {
                Stage::Running
            }
            None => record.stage.clone(),
        };
        let moves = self.is_to_move(members);
        if moves && self.may_move(record) {
            let outdated = Gang { outdated: true, ..record.clone() };
            return self.tear_down(gang, &outdated, members, moved(gang * self.world.job.gang_size));
        }
        // Without a place they wait, as the whole gang would; and so they do beside an older attempt whose node is back, and
        // beside members that are none of this job's any more.
        let is_alone = !self.has_older_live(gang, record.attempt) && !self.strays().any(Member::is_live);
        if !matches!(self.world.place, Some(Err(_))) && is_alone && !moves {
            missing.iter().for_each(|index| self.start(MemberId { attempt: record.attempt, index: *index }));
        }
        self.restage(gang, record, members, stage);
    }

    /// Lets the members of a gang of several find one another once all are made and one has a node, and no longer while they are
    /// stopped. With each pod that is made, placed or deleted the cluster's controllers go over all pods of a Service and of a
    /// disruption budget: for as long as a gang is neither whole nor at work nobody is to pay for that.
    pub(super) fn connect(&mut self) {
        let (world, size) = (self.world, self.world.job.gang_size as usize);
        let Some(record) = self.ledger.gangs.get(&0).filter(|_| size > 1) else { return };
        let before = world.ledger.gangs.get(&0).filter(|before| before.attempt == record.attempt);
        match record.stage {
            // One that ran was connected before that was written down.
            Stage::Starting | Stage::Running if before.is_none_or(|before| before.stage != Stage::Running) => {
                let members = || self.members_of(0).filter(|member| member.id.attempt == record.attempt);
                let meets = members().count() == size && members().any(|member| member.node.is_some());
                let connect = Some(record.attempt).filter(|_| meets && world.connected != Some(record.attempt));
                match (&world.place, connect) {
                    // What they need for it is refused: that is told, and until it is tried again they don't count as running.
                    (Some(Err(obstacle)), Some(_)) => {
                        let record = Gang { stage: Stage::Starting, ..record.clone() };
                        self.ledger.gangs.insert(0, record);
                        self.meet(obstacle);
                    }
                    _ => self.plan.connect = connect,
                }
            }
            Stage::Failing { .. } => {
                self.plan.disconnect =
                    world.connected.is_some() && self.plan.stop.iter().any(|stop| stop.how != How::Clear);
            }
            Stage::Starting | Stage::Running | Stage::Waiting { .. } => {}
        }
    }

    /// Stops what is left of a gang, and accounts for the attempt once nothing is.
    fn tear_down(&mut self, gang: u32, record: &Gang, members: &[&Member], failure: Failure) {
        if !members.iter().any(|member| member.is_live()) {
            return self.close(gang, record, members, failure);
        }
        // First it is written down: who dies in between must not take what we stopped for lost, and count that as a failure.
        let known = self.world.ledger.gangs.get(&gang).filter(|known| known.attempt == record.attempt);
        if known.is_some_and(|known| matches!(known.stage, Stage::Failing { .. })) {
            members.iter().filter(|member| member.is_live()).for_each(|member| self.stop(member));
        } else {
            self.wake_at(self.now);
        }
        self.restage(gang, record, members, Stage::Failing { failure });
    }

    /// Accounts for an attempt that has ended: the one place where failures are counted.
    fn close(&mut self, gang: u32, record: &Gang, members: &[&Member], failure: Failure) {
        let policy = policy::of(failure.cause);
        let stopped_by_us = self.world.job.suspend && policy.retry != policy::Retry::Never;
        let costs = policy.costs && !stopped_by_us;
        // Each shard has a budget of its own. That of a gang alone is the job's, which outlasts what the ledger knows of gangs.
        let spent = if self.world.job.gangs > 1 { record.failures } else { self.ledger.failures };
        let last = match policy.retry {
            policy::Retry::Never => Some(FinalReason::Permanent),
            policy::Retry::Elsewhere if !self.world.job.elsewhere && !stopped_by_us => Some(FinalReason::NowhereElse),
            _ if costs && spent >= self.world.job.backoff_limit => Some(FinalReason::BackoffLimitExceeded),
            _ => None,
        };
        if policy.retry == policy::Retry::Elsewhere && last.is_none() {
            self.exclude(&failure);
        }
        // An eviction costs nothing, and its next attempt may come at once; but not again and again. One that was asked to end is
        // waited for from the second in a row on.
        let asked = failure.exit_code == Some(Cause::Preempted.exit_code());
        let soon = self.now < after(record.since, HASTY_SECONDS);
        let hasty = !costs && !stopped_by_us && !record.outdated && soon;
        let (mut wait, mut closed) = (0, record.clone());
        if costs || hasty {
            let step = failure.step.unwrap_or(0).max(record.mark.map_or(0, |mark| mark.step));
            closed.streak = if step > record.streak_step { 1 } else { record.streak + 1 };
            closed.streak_step = record.streak_step.max(step);
            closed.failures += u32::from(costs);
            self.ledger.failures += u32::from(costs);
            if costs || !asked || closed.streak > 1 {
                // Shards that fail together don't come back together.
                let salt = record.attempt.wrapping_add(gang.wrapping_mul(0x9e37_79b9));
                wait = backoff::seconds(self.world.job.backoff, closed.streak, &self.world.job.uid, salt);
            }
        }
        let ended = Failure { message: with_hint(&failure), hint: String::new(), ..failure.clone() };
        if let Some(reason) = last {
            let failure = Failure { shard: self.shard(gang), ..failure };
            self.ledger.failure.get_or_insert((reason, failure));
        } else if !stopped_by_us {
            let next = if wait == 0 { "at once".to_owned() } else { format!("in {wait} s") };
            let what = what_happened(record.attempt, self.shard(gang), &ended);
            let reason = match costs {
                true => reason::RESTARTING,
                false if asked => reason::PREEMPTED,
                false => reason::DISRUPTED,
            };
            self.tell(costs, reason, format!("{what}; the next attempt starts {next}"));
        }
        let attempt = self.attempt(gang, record, members, ended);
        self.plan.ended.push(attempt.clone());
        self.remember(attempt);
        closed.stage = Stage::Waiting { not_before: after(self.now, wait) };
        (closed.ran_since, closed.mark, closed.moved_at) = (None, None, None);
        self.ledger.gangs.insert(gang, closed);
    }

    /// The number of a gang, where there are several.
    pub(super) fn shard(&self, gang: u32) -> Option<u32> {
        (self.world.job.gangs > 1).then_some(gang)
    }

    /// The attempt that has ended now.
    fn attempt(&self, gang: u32, record: &Gang, members: &[&Member], failure: Failure) -> Attempt {
        let start = ran_since(record, members);
        Attempt { number: record.attempt, shard: self.shard(gang), start, end: self.now, failure }
    }

    /// Leaves the node that a failure came from out of the attempts to come: for good where it does not fit, for a while
    /// where it may recover.
    fn exclude(&mut self, failure: &Failure) {
        let Some(node) = failure.node.clone() else { return };
        let seconds = if failure.exit_code.is_some() { EXCLUSION_SECONDS } else { REFUSAL_SECONDS };
        let until = (failure.cause != Cause::GpuUnsupported).then(|| after(self.now, seconds));
        if self.ledger.excluded.len() < NODES_KEPT || self.ledger.excluded.contains_key(&node) {
            self.tell(true, reason::NODE_EXCLUDED, format!("Node {node} is left out: {:?}", failure.cause));
            self.ledger.excluded.insert(node, until);
        }
    }

    /// Writes down that a gang is done, and adds what it left behind to the job's result.
    fn complete(&mut self, gang: u32, record: &Gang, members: &[&Member]) {
        self.ledger.gangs.remove(&gang);
        self.ledger.done.insert(gang);
        let result = members.iter().find_map(|member| member.end()).and_then(|end| end.result.clone());
        if let Some(result) = result {
            self.add_result(result);
        }
        let completed = Failure { cause: Cause::Completed, ..blank(gang * self.world.job.gang_size) };
        let attempt = self.attempt(gang, record, members, completed);
        self.plan.ended.push(attempt.clone());
        // Shards that are done are counted. Told one by one they would push out the few that failed.
        if attempt.shard.is_none() {
            self.remember(attempt);
        }
    }

    /// Adds an ended attempt to the history: the first one and the last nine are kept.
    fn remember(&mut self, attempt: Attempt) {
        let attempts = &mut self.ledger.attempts;
        attempts.push(attempt);
        if attempts.len() > 1 + ATTEMPTS_KEPT {
            attempts.remove(1);
        }
    }

    fn restage(&mut self, gang: u32, record: &Gang, members: &[&Member], stage: Stage) {
        // That a first pod has its node is no news worth a write of its own.
        let ran_since = if stage == record.stage { record.ran_since } else { ran_since(record, members) };
        self.ledger.gangs.insert(gang, Gang { stage, ran_since, ..record.clone() });
    }
}

/// When the first member of a gang's newest attempt was taken by its node.
fn ran_since(record: &Gang, members: &[&Member]) -> Option<Timestamp> {
    record.ran_since.or_else(|| members.iter().filter_map(|member| member.started).min())
}

/// The failure that a member tells of, if it tells of one.
fn failure_of(job: &Job, member: &Member) -> Option<Failure> {
    let node = member.node.clone();
    match &member.state {
        MemberState::Ended(end) | MemberState::Stuck(end) if end.cause != Cause::Completed => {
            let (cause, hint) = policy::read(job.exit_codes.as_deref(), end);
            Some(Failure {
                cause,
                exit_code: end.exit_code,
                rank: end.rank,
                node,
                step: end.step,
                message: end.message.clone(),
                hint,
                ..blank(member.id.index)
            })
        }
        MemberState::Unreachable => Some(Failure {
            cause: Cause::NodeFault,
            node,
            message: "its node can't be reached".to_owned(),
            ..blank(member.id.index)
        }),
        // As a spot machine that is taken back, and one that an autoscaler removes.
        MemberState::Gone => Some(Failure {
            cause: Cause::Preempted,
            node,
            message: "its node was removed from the cluster".to_owned(),
            ..blank(member.id.index)
        }),
        _ => None,
    }
}

/// Whether a member ended once it was told to, with a code that says nothing else: torchrun exits with 1 when it is
/// terminated.
fn ended_as_told(member: &Member) -> bool {
    let says_nothing = |cause| matches!(cause, Cause::OtherPermanent | Cause::OtherRetryable);
    member.end().is_some_and(|end| {
        says_nothing(end.cause) && member.stopping_since.is_some_and(|since| end.at.as_second() >= since.as_second())
    })
}

/// The UID of the one member of the attempt before that failed first: it stays until the next failure, for its log. One that lingers
/// holds what the next attempt needs.
fn witness(older: &[&Member], attempt: u32) -> Option<String> {
    older
        .iter()
        .filter(|member| member.id.attempt + 1 == attempt)
        .filter_map(|member| Some((member, member.end().filter(|end| !end.lingers)?)))
        .filter(|(_, end)| !matches!(end.cause, Cause::Completed | Cause::Preempted))
        .min_by_key(|(member, end)| (policy::rank(end.cause), end.at, member.id.index))
        .map(|(member, _)| member.uid.clone())
}

fn vanished(member: u32) -> Failure {
    let message = format!("member {member} is gone without an exit code: something outside deleted it");
    Failure { cause: Cause::OtherRetryable, message, ..blank(member) }
}

fn suspended(gang: u32) -> Failure {
    Failure { cause: Cause::Preempted, message: "suspended".to_owned(), ..blank(gang) }
}

pub(super) fn blank(member: u32) -> Failure {
    Failure { cause: Cause::Completed, member, ..Failure::of_job() }
}

impl Draft<'_> {
    /// Whether nothing of the job lives.
    pub(super) fn is_quiet(&self) -> bool {
        !self.world.members.iter().any(Member::is_live) && self.plan.start.is_empty()
    }

    /// Whether all gangs are done.
    pub(super) fn is_done(&self) -> bool {
        u32::try_from(self.ledger.done.len()).unwrap_or(u32::MAX) >= self.world.job.gangs
    }

    /// Whether the job has just come to its end, and how.
    pub(super) fn conclude(&mut self) {
        let phase = match &self.ledger.failure {
            Some(_) => Phase::Failed,
            None if self.is_done() => Phase::Succeeded,
            None => return,
        };
        self.ledger.phase = phase;
        self.ledger.active_seconds = self.ledger.active_until(self.now);
        self.ledger.active_since = None;
        self.ledger.completion_time = Some(self.now);
        self.end_progress();
        self.plan.start.clear();
    }
}
