//! Which gangs start now.

use crds::infrastructure::Device;
use crds::reasons::reason;

use super::{Draft, after};
use crate::observe::{Failure, FinalReason, Member, MemberId, Obstacle, Stage};

/// Seconds after which it is told again what is in a job's way, if its sentence has changed since: with each node that comes or
/// goes its counts do.
const TELL_AGAIN_SECONDS: u64 = 600;

impl Draft<'_> {
    /// Lets nodes be used again whose time has come.
    pub(super) fn readmit(&mut self) {
        let now = self.now;
        self.ledger.excluded.retain(|_, until| until.is_none_or(|until| until > now));
    }

    /// Whether there is a place for what is to start: if not, the job waits for it, or fails if waiting can't help.
    pub(super) fn check_place(&mut self) {
        self.ledger.obstacle = None;
        let job = &self.world.job;
        let wants_to_start = (0..job.gangs).any(|gang| match self.ledger.gangs.get(&gang) {
            Some(record) => match record.stage {
                Stage::Waiting { .. } => true,
                // Not all of its members could be made.
                Stage::Starting => {
                    let made = self.members_of(gang).filter(|member| member.id.attempt == record.attempt).count();
                    made < job.gang_size as usize
                }
                _ => false,
            },
            None => !self.ledger.done.contains(&gang),
        });
        // What waits for a node may wait for one that is gone for good, or no longer as it was.
        let is_homeless = self.ledger.is_homeless(&self.world.members);
        if !(wants_to_start || is_homeless) || job.suspend || self.ledger.failure.is_some() {
            return;
        }
        let obstacle = match &self.world.place {
            None => return self.plan.asks_place = true,
            Some(Ok(_)) => return,
            Some(Err(obstacle)) if wants_to_start || obstacle.reason == reason::NO_FITTING_NODE => obstacle,
            // Pods that are there need no more than a node.
            Some(Err(_)) => return,
        };
        if let Some(cause) = obstacle.fails_by {
            let failure = Failure { cause, message: obstacle.message.clone(), ..Failure::of_job() };
            let why = match obstacle.reason.as_str() {
                reason::MODEL_MISSING => FinalReason::ModelMissing,
                _ => FinalReason::Permanent,
            };
            self.ledger.failure = Some((why, failure));
            return;
        }
        self.meet(obstacle);
        if let Some(end) = self.ledger.excluded.values().flatten().min() {
            self.wake_at(*end);
        }
    }

    /// Writes down what is in the job's way, and tells of what is new.
    pub(super) fn meet(&mut self, obstacle: &Obstacle) {
        let known = self.world.ledger.obstacle.as_ref();
        let is_new = known.is_none_or(|known| known.reason != obstacle.reason);
        let is_due = self.ledger.obstacle_told.is_none_or(|told| self.now >= after(told, TELL_AGAIN_SECONDS));
        if is_new || is_due && known != Some(obstacle) {
            self.tell(true, &obstacle.reason, obstacle.message.clone());
            self.ledger.obstacle_told = Some(self.now);
        }
        self.ledger.obstacle = Some(obstacle.clone());
    }

    /// Starts gangs while there is room under `parallelism`: first those that have to be tried again, then new ones in order.
    pub(super) fn launch(&mut self) {
        let Some(Ok(placement)) = &self.world.place else { return };
        let job = &self.world.job;
        if self.strays().any(Member::is_live) {
            return;
        }
        let mut room = self.ledger.gangs.values().filter(|gang| !matches!(gang.stage, Stage::Waiting { .. })).count();
        let waiting: Vec<(u32, u32)> = self
            .ledger
            .gangs
            .iter()
            .filter_map(|(number, gang)| match gang.stage {
                Stage::Waiting { not_before } => Some((*number, gang.attempt, not_before)),
                _ => None,
            })
            .filter_map(|(number, attempt, not_before)| {
                if not_before > self.now {
                    self.plan.wake = Some(self.plan.wake.map_or(not_before, |wake| wake.min(not_before)));
                    return None;
                }
                Some((number, attempt + 1))
            })
            .collect();
        let fresh = (0..job.gangs)
            .filter(|gang| !self.ledger.done.contains(gang) && !self.ledger.gangs.contains_key(gang))
            .map(|gang| (gang, 1));
        let candidates: Vec<(u32, u32)> = waiting.into_iter().chain(fresh).collect();
        let parallelism = usize::try_from(job.parallelism).unwrap_or(usize::MAX);
        for (gang, attempt) in candidates {
            if room >= parallelism {
                break;
            }
            if self.has_older_live(gang, attempt) {
                continue;
            }
            room += 1;
            // First it is written down how the last one ended: who dies once the next one is made would find only that.
            if attempt > 1 && !self.is_written_waiting(gang, attempt - 1) {
                self.wake_at(self.now);
                continue;
            }
            self.open(gang, attempt);
            let before = self.ledger.placement.replace(placement.clone());
            let falls_back = job.is_auto && placement.device == Device::Cpu;
            if falls_back && before.is_none_or(|before| before.device != Device::Cpu) {
                self.tell(true, reason::NO_GPU, format!("Attempt {attempt} runs on CPUs: {}", placement.reason));
            }
            for index in job.members_of(gang) {
                self.start(MemberId { attempt, index });
            }
            if job.gangs == 1 {
                self.tell(false, reason::PODS_CREATED, format!("Attempt {attempt} starts"));
            }
        }
    }

    /// Whether the ledger that was read has closed this attempt of a gang.
    fn is_written_waiting(&self, gang: u32, attempt: u32) -> bool {
        let written = self.world.ledger.gangs.get(&gang);
        written.is_some_and(|written| written.attempt == attempt && matches!(written.stage, Stage::Waiting { .. }))
    }
}
