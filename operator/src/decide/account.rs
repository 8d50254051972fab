//! The job as a whole: its time, its phase and the sentence that goes with it.

use crds::contract::{Cause, JobResult};
use crds::reasons::reason;
use crds::status::{Phase, bounded};

use super::words::{names, of_shard, place, what_happened};
use super::{Draft, after};
use crate::observe::{Failure, FinalReason, MemberId, Stage};

impl Draft<'_> {
    /// From the first look on the job is active while it is not suspended, whether it has a place or waits for one.
    pub(super) fn take_time(&mut self) {
        if !self.world.job.suspend {
            self.ledger.active_since.get_or_insert(self.now);
        }
    }

    /// Ends the job that was active for too long, and the gang that stands still for too long.
    pub(super) fn check_deadlines(&mut self) {
        // What was done in time may be seen late.
        if self.is_done() {
            return;
        }
        if let (Some(deadline), Some(_)) = (self.world.job.active_deadline_seconds, self.ledger.active_since) {
            let active = self.ledger.active_until(self.now);
            if active >= deadline {
                let message = format!(
                    "active for {active} s of the {deadline} s that spec.runPolicy.activeDeadlineSeconds allows"
                );
                let failure = Failure {
                    step: self.ledger.progress.as_ref().map(|progress| progress.step),
                    message,
                    hint: "raise it, or leave it out".to_owned(),
                    ..Failure::of_job()
                };
                self.ledger.failure.get_or_insert((FinalReason::DeadlineExceeded, failure));
            } else {
                self.wake_at(after(self.now, deadline - active));
            }
        }
        self.check_stall();
    }

    /// Adds what a gang left behind: counts are summed, the figure is weighted by the rows it was taken over. Gangs that tell of
    /// the same whole, as those do that end at the same time, tell of it once.
    pub(super) fn add_result(&mut self, new: JobResult) {
        let Some(old) = self.ledger.result.take() else {
            self.ledger.result = Some(new);
            return;
        };
        if old.digest.is_some() && old.digest == new.digest {
            self.ledger.result = Some(old);
            return;
        }
        let weight = |result: &JobResult| result.rows_in.unwrap_or(0) as f64;
        let metric = match (old.metric, new.metric) {
            (Some(a), Some(b)) if weight(&old) + weight(&new) > 0.0 => {
                Some((a * weight(&old) + b * weight(&new)) / (weight(&old) + weight(&new)))
            }
            (a, b) => a.or(b),
        };
        let sum = |a: Option<u64>, b: Option<u64>| a.map(|a| a + b.unwrap_or(0)).or(b);
        self.ledger.result = Some(JobResult {
            metric,
            metric_name: old.metric_name.or(new.metric_name),
            threshold: None,
            rows_in: sum(old.rows_in, new.rows_in),
            rows_out: sum(old.rows_out, new.rows_out),
            rows_failed: sum(old.rows_failed, new.rows_failed),
            uri: old.uri,
            digest: None,
            note: old.note.or(new.note),
        });
    }

    /// Brings phase, message and clocks in line with the gangs, and tells of a change.
    pub(super) fn describe(&mut self) {
        let before = self.world.ledger.phase;
        let job = &self.world.job;
        if !self.ledger.phase.is_terminal() {
            self.ledger.phase = self.phase();
        }
        let phase = self.ledger.phase;
        if phase == Phase::Running && job.gangs == 1 {
            let leader = MemberId { attempt: self.ledger.attempt, index: 0 };
            let node =
                self.world.members.iter().find(|member| member.id == leader).and_then(|member| member.node.clone());
            if let (Some(placement), Some(node)) = (&mut self.ledger.placement, node) {
                placement.node = Some(node);
            }
        }
        if phase == Phase::Suspended {
            self.ledger.active_seconds = self.ledger.active_until(self.now);
            self.ledger.active_since = None;
        }
        if self.ledger.attempt > 0 && self.ledger.model.is_none() {
            self.ledger.model.clone_from(&self.world.model);
        }
        let unplaced = self.world.members.iter().any(|member| member.unplaced && member.is_live());
        self.ledger.unplaced = unplaced && !phase.is_terminal();
        self.ledger.warnings.clone_from(&self.world.warnings);
        if self.world.ledger.attempt == 0 && self.ledger.attempt > 0 && !self.ledger.warnings.is_empty() {
            self.tell(true, reason::NO_EFFECT, self.ledger.warnings.clone());
        }
        self.ledger.stalled = self.ledger.gangs.values().any(|gang| gang.stalled);
        self.ledger.observed_generation = job.generation;
        self.ledger.message = bounded(&self.message());
        self.tell_waiting();
        if before == phase {
            return;
        }
        if before == Phase::Suspended && !phase.is_terminal() {
            self.tell(false, reason::RESUMED, "The job goes on");
        }
        let message = self.ledger.message.clone();
        match phase {
            Phase::Running => self.tell(false, reason::ALL_RUNNING, message),
            Phase::Suspended => self.tell(false, reason::SUSPENDED, message),
            Phase::Succeeded => self.tell(false, reason::COMPLETED, message),
            Phase::Failed => self.tell(true, &self.ledger.failed_for(), message),
            Phase::Pending | Phase::Starting | Phase::Restarting => {}
        }
    }

    fn phase(&self) -> Phase {
        let any = |wanted: fn(&Stage) -> bool| self.ledger.gangs.values().any(|gang| wanted(&gang.stage));
        let before = self.world.ledger.phase;
        if self.world.job.suspend && self.is_quiet() {
            Phase::Suspended
        } else if self.world.job.suspend && matches!(before, Phase::Starting | Phase::Running) {
            // What is being stopped does not restart.
            before
        } else if any(|stage| *stage == Stage::Running) {
            Phase::Running
        } else if self.ledger.failures > 0 && !any(|stage| *stage == Stage::Starting) && !self.ledger.gangs.is_empty() {
            Phase::Restarting
        } else if any(|stage| matches!(stage, Stage::Starting)) {
            Phase::Starting
        } else if self.ledger.gangs.is_empty() && self.ledger.done.is_empty() {
            Phase::Pending
        } else if any(|stage| matches!(stage, Stage::Failing { .. } | Stage::Waiting { .. })) {
            Phase::Restarting
        } else {
            Phase::Running
        }
    }

    fn message(&self) -> String {
        let ledger = &self.ledger;
        let attempt = ledger.attempt;
        match ledger.phase {
            Phase::Pending | Phase::Starting | Phase::Restarting if ledger.obstacle.is_some() => {
                ledger.obstacle.as_ref().map(|obstacle| obstacle.message.clone()).unwrap_or_default()
            }
            Phase::Pending => "Waits to be started".to_owned(),
            Phase::Starting if self.world.job.suspend => "Is stopped before it runs".to_owned(),
            Phase::Starting => match self.world.members.iter().find(|member| !member.waiting.is_empty()) {
                Some(member) => format!("Attempt {attempt} starts: {}", self.why_it_waits(member)),
                None => format!("Attempt {attempt} starts"),
            },
            Phase::Running if self.world.job.suspend => "Commits a checkpoint, then stops".to_owned(),
            Phase::Running => match &ledger.progress {
                Some(progress) if progress.attempt == attempt && !progress.stage.is_empty() => progress.stage.clone(),
                _ => format!("Attempt {attempt} runs"),
            },
            Phase::Restarting => self.restarting(),
            Phase::Suspended => match self.checkpoint_step() {
                Some(step) => format!("Suspended; a checkpoint is committed at step {step}"),
                None => "Suspended".to_owned(),
            },
            Phase::Succeeded => self.done(),
            Phase::Failed => self.failed(),
        }
    }

    fn restarting(&self) -> String {
        let failing = self.ledger.gangs.iter().find_map(|(number, gang)| match &gang.stage {
            Stage::Failing { failure } => {
                let what = what_happened(gang.attempt, self.shard(*number), failure);
                Some(format!("{what}; the rest of it is being stopped"))
            }
            _ => None,
        });
        let last = self.ledger.attempts.last();
        let closed = || last.map(|attempt| what_happened(attempt.number, attempt.shard, &attempt.failure));
        failing.or_else(closed).unwrap_or_else(|| "Starts again".to_owned())
    }

    fn failed(&self) -> String {
        let Some((reason, failure)) = &self.ledger.failure else { return "Failed".to_owned() };
        let cause = failure.cause;
        let what = format!("{}{}", failure.message.trim_end_matches('.'), place(failure));
        let of = of_shard(failure.shard);
        let left_out = names(self.ledger.excluded.keys().chain(&failure.node).map(String::as_str));
        let why = match reason {
            FinalReason::Permanent => format!("{cause:?}{of}: {what}"),
            FinalReason::NowhereElse if left_out.is_empty() => {
                format!("{cause:?}{of}: {what}; there is no other node to try")
            }
            FinalReason::NowhereElse => {
                format!("{cause:?}{of}: {what}; there is no other node to try: left out are {left_out}")
            }
            FinalReason::BackoffLimitExceeded => {
                format!(
                    "{cause:?}{of}: {what}; all {} restarts of spec.runPolicy.backoffLimit are spent",
                    self.world.job.backoff_limit
                )
            }
            FinalReason::DeadlineExceeded => format!("DeadlineExceeded: {what}"),
            FinalReason::ModelMissing => format!("ModelMissing: {what}"),
        };
        match failure.hint.as_str() {
            "" => why,
            hint => format!("{why}. {hint}"),
        }
    }

    fn checkpoint_step(&self) -> Option<u64> {
        let ended = self.ledger.attempts.last().filter(|attempt| attempt.failure.cause == Cause::Preempted);
        ended
            .and_then(|attempt| attempt.failure.step)
            .or_else(|| self.ledger.progress.as_ref().and_then(|progress| progress.checkpoint_step))
    }
}
