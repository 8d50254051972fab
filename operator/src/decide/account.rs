//! The job as a whole: its progress, its time, its phase and the sentence that goes with it.

use crds::contract::{Cause, JobResult, Progress};
use crds::reasons::reason;
use crds::status::{Phase, bounded};

use super::words::{names, place, what_happened};
use super::{Draft, after};
use crate::observe::{Failure, FinalReason, Member, MemberId, Stage};

/// Seconds between two notes of progress: twice a minute.
const PROGRESS_SECONDS: u64 = 30;

impl Draft<'_> {
    /// Writes progress down: at once for the first time, for a new attempt, and when the first step is done, which is what people wait
    /// for; otherwise when it moved, twice a minute at most.
    pub(super) fn take_progress(&mut self) {
        let Some(heard) = &self.world.progress else { return };
        let due = match (&self.ledger.progress, self.ledger.progress_at) {
            (Some(known), Some(at)) => {
                let begins = known.attempt != heard.attempt || (known.step == 0 && heard.step > 0);
                // A shard that nothing was heard of yet, after a restart of the operator, does not take back what was told.
                let goes_back = self.world.job.gangs > 1 && known.attempt == heard.attempt && heard.step < known.step;
                let moved = moved(known, heard) && !goes_back;
                let next = after(at, PROGRESS_SECONDS);
                if moved && self.now < next {
                    // It may be the last that is ever heard: then it has to be noted all the same, for the stall to be seen.
                    self.wake_at(next);
                }
                begins || (moved && self.now >= next)
            }
            _ => true,
        };
        if due {
            self.ledger.progress = Some(heard.clone());
            self.ledger.progress_at = Some(self.now);
            self.ledger.stalled = false;
        }
    }

    /// Writes down what was heard last of a job that has come to its end: nothing more will be. None of it has time left, and a job
    /// that succeeded has all of its steps behind it.
    pub(super) fn end_progress(&mut self) {
        let known = self.ledger.progress.as_ref().map_or((0, 0), |known| (known.attempt, known.step));
        if let Some(heard) = self.world.progress.as_ref().filter(|heard| (heard.attempt, heard.step) >= known) {
            self.ledger.progress = Some(heard.clone());
            self.ledger.progress_at = Some(self.now);
        }
        if let Some(progress) = &mut self.ledger.progress {
            progress.eta_seconds = None;
            if self.ledger.phase == Phase::Succeeded {
                progress.step = progress.total_steps;
            }
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

    fn check_stall(&mut self) {
        let (Some(deadline), Some(at), Some(known)) =
            (self.world.job.stall_deadline_seconds, self.ledger.progress_at, &self.ledger.progress)
        else {
            return;
        };
        let current = known.attempt == self.ledger.attempt;
        let heard_more = self.world.progress.as_ref().is_some_and(|heard| moved(known, heard));
        if !current || heard_more {
            return;
        }
        let due = after(at, deadline);
        if self.now < due {
            return self.wake_at(due);
        }
        let step = known.step;
        let stalled: Vec<u32> = self
            .ledger
            .gangs
            .iter()
            .filter(|(number, gang)| gang.stage == Stage::Running && !self.has_completed(**number, gang.attempt))
            .map(|(number, _)| *number)
            .collect();
        self.ledger.stalled |= !stalled.is_empty();
        for number in stalled {
            let failure = Failure {
                cause: Cause::PeerLost,
                member: number * self.world.job.gang_size,
                exit_code: None,
                rank: None,
                node: None,
                step: Some(step),
                message: format!(
                    "no progress since step {step} for {deadline} s (spec.runPolicy.stallDeadlineSeconds)"
                ),
                hint: String::new(),
            };
            if let Some(gang) = self.ledger.gangs.get_mut(&number) {
                gang.stage = Stage::Failing { failure };
            }
            self.tell(true, reason::NO_PROGRESS, format!("No progress since step {step} for {deadline} s"));
            self.settle(number);
        }
    }

    /// Whether the leader of a gang has completed: what is left of it ends, and reports nothing more.
    fn has_completed(&self, gang: u32, attempt: u32) -> bool {
        let leader = MemberId { attempt, index: gang * self.world.job.gang_size };
        let ended = self.members_of(gang).filter(|member| member.id == leader).find_map(Member::end);
        ended.is_some_and(|end| end.cause == Cause::Completed)
    }

    /// Adds what a gang left behind: counts are summed, the figure is weighted by the rows it was taken over.
    pub(super) fn add_result(&mut self, new: JobResult) {
        let Some(old) = self.ledger.result.take() else {
            self.ledger.result = Some(new);
            return;
        };
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
            Phase::Failed => {
                let reason = match &self.ledger.failure {
                    Some((FinalReason::BackoffLimitExceeded, _)) => reason::BACKOFF_LIMIT_EXCEEDED.to_owned(),
                    Some((FinalReason::DeadlineExceeded, _)) => reason::DEADLINE_EXCEEDED.to_owned(),
                    Some((_, failure)) => format!("{:?}", failure.cause),
                    None => reason::BAD_SPEC.to_owned(),
                };
                self.tell(true, &reason, message);
            }
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
                Some(member) => format!("Attempt {attempt} starts: {}", member.waiting),
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
        let failing = self.ledger.gangs.values().find_map(|gang| match &gang.stage {
            Stage::Failing { failure } => {
                Some(format!("{}; the rest of it is being stopped", what_happened(gang.attempt, failure)))
            }
            _ => None,
        });
        let closed = || self.ledger.attempts.last().map(|attempt| what_happened(attempt.number, &attempt.failure));
        failing.or_else(closed).unwrap_or_else(|| "Starts again".to_owned())
    }

    fn failed(&self) -> String {
        let Some((reason, failure)) = &self.ledger.failure else { return "Failed".to_owned() };
        let cause = failure.cause;
        let what = format!("{}{}", failure.message.trim_end_matches('.'), place(failure));
        let left_out = names(self.ledger.excluded.keys().chain(&failure.node).map(String::as_str));
        let why = match reason {
            FinalReason::Permanent => format!("{cause:?}: {what}"),
            FinalReason::NowhereElse if left_out.is_empty() => {
                format!("{cause:?}: {what}; there is no other node to try")
            }
            FinalReason::NowhereElse => {
                format!("{cause:?}: {what}; there is no other node to try: left out are {left_out}")
            }
            FinalReason::BackoffLimitExceeded => {
                format!(
                    "{cause:?}: {what}; all {} restarts of spec.runPolicy.backoffLimit are spent",
                    self.world.job.backoff_limit
                )
            }
            FinalReason::DeadlineExceeded => format!("DeadlineExceeded: {what}"),
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

/// Whether a job got further between two reports.
fn moved(known: &Progress, heard: &Progress) -> bool {
    (known.attempt, known.step, known.epoch, &known.stage) != (heard.attempt, heard.step, heard.epoch, &heard.stage)
}
