//! How far a job and each of its gangs is, and which of them stand still.

use crds::contract::{Cause, PROGRESS_PORT, Progress};
use crds::reasons::reason;
use crds::status::Phase;
use jiff::Timestamp;

use super::words::of_shard;
use super::{Draft, after};
use crate::observe::{Failure, Gang, Mark, Member, MemberId, Stage};

/// Seconds between two notes of progress: twice a minute.
const PROGRESS_SECONDS: u64 = 30;

impl Draft<'_> {
    /// Writes progress down: at once for the first time, for a new attempt, and when the first step is done, which is what people wait
    /// for; otherwise when it moved, twice a minute at most. How far each gang is goes with it.
    pub(super) fn take_progress(&mut self) {
        let Some(heard) = &self.world.progress else { return };
        // A shard that nothing was heard of yet, after a restart of the operator, does not take back what was told.
        let goes_back =
            self.ledger.progress.as_ref().is_some_and(|known| {
                self.world.job.gangs > 1 && known.attempt == heard.attempt && heard.step < known.step
            });
        let moves: Vec<(u32, Mark)> = self
            .ledger
            .gangs
            .iter()
            .filter(|(_, gang)| !matches!(gang.stage, Stage::Waiting { .. }))
            .filter_map(|(number, gang)| Some((*number, self.news_of(*number, gang)?)))
            .collect();
        let due = match (&self.ledger.progress, self.ledger.progress_at) {
            (Some(known), Some(at)) => {
                let begins = known.attempt != heard.attempt || (known.step == 0 && heard.step > 0);
                let moved = (moved(known, heard) && !goes_back) || !moves.is_empty();
                let next = after(at, PROGRESS_SECONDS);
                if moved && self.now < next {
                    // It may be the last that is ever heard: then it has to be noted all the same, for the stall to be seen.
                    self.wake_at(next);
                }
                begins || (moved && self.now >= next)
            }
            _ => true,
        };
        if !due {
            return;
        }
        if !goes_back {
            self.ledger.progress = Some(heard.clone());
        }
        self.ledger.progress_at = Some(self.now);
        for (number, mark) in moves {
            if let Some(gang) = self.ledger.gangs.get_mut(&number) {
                (gang.mark, gang.moved_at, gang.stalled) = (Some(mark), Some(self.now), false);
            }
        }
    }

    /// What was heard of a gang's newest attempt that is not written down yet.
    fn news_of(&self, number: u32, gang: &Gang) -> Option<Mark> {
        let heard = self.world.heard.get(&number).filter(|heard| heard.attempt == gang.attempt)?;
        Some(*heard).filter(|heard| gang.mark != Some(*heard))
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

    /// Restarts the gangs that stand still for too long.
    pub(super) fn check_stall(&mut self) {
        let Some(deadline) = self.world.job.stall_deadline_seconds else { return };
        // Each gang by its own word: what others do says nothing of it, and one that has said nothing yet may never say anything. It may
        // have moved while nobody was there to hear of it.
        let still: Vec<(u32, u64, Timestamp)> = self
            .ledger
            .gangs
            .iter()
            .filter(|(number, gang)| gang.stage == Stage::Running && self.news_of(**number, gang).is_none())
            .filter_map(|(number, gang)| {
                Some((*number, gang.mark?.step, after(gang.moved_at?.max(self.world.since), deadline)))
            })
            .filter(|(number, _, _)| !self.has_completed(*number))
            .collect();
        for (number, step, due) in still {
            if self.now < due {
                self.wake_at(due);
                continue;
            }
            let failure = Failure {
                cause: Cause::PeerLost,
                member: number * self.world.job.gang_size,
                step: Some(step),
                message: format!(
                    "no progress since step {step} for {deadline} s (spec.runPolicy.stallDeadlineSeconds), or port \
                     {PROGRESS_PORT} of the leader could not be reached"
                ),
                ..Failure::of_job()
            };
            if let Some(gang) = self.ledger.gangs.get_mut(&number) {
                (gang.stage, gang.stalled) = (Stage::Failing { failure }, true);
            }
            let of = of_shard(self.shard(number));
            self.tell(true, reason::NO_PROGRESS, format!("No progress{of} since step {step} for {deadline} s"));
            self.settle(number);
        }
    }

    /// Whether the leader of a gang has completed: what is left of it ends, and reports nothing more.
    fn has_completed(&self, gang: u32) -> bool {
        let attempt = self.ledger.gangs.get(&gang).map_or(0, |record| record.attempt);
        let leader = MemberId { attempt, index: gang * self.world.job.gang_size };
        let ended = self.members_of(gang).filter(|member| member.id == leader).find_map(Member::end);
        ended.is_some_and(|end| end.cause == Cause::Completed)
    }
}

/// Whether a job got further between two reports.
fn moved(known: &Progress, heard: &Progress) -> bool {
    (known.attempt, known.step, known.epoch, &known.stage) != (heard.attempt, heard.step, heard.epoch, &heard.stage)
}
