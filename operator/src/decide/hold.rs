//! What is not written down at once: it comes often, and nothing rests on it.

use super::{Draft, How, Plan, after};
use crate::observe::{Gang, Obstacle, Stage};

/// Seconds between two writes of a sentence that alone has changed: twice a minute.
const REWORD_SECONDS: u64 = 30;
/// Gangs under way from which on what is routine is gathered: each write holds the memory of all of them.
const GATHERED_FROM: usize = 128;

impl Draft<'_> {
    /// Holds back a sentence that alone has changed, and has not long ago: those of places and of the scheduler count nodes, which come
    /// and go in numbers.
    pub(super) fn hold_words(&mut self) {
        let before = &self.world.ledger;
        let reason = |obstacle: &Option<Obstacle>| obstacle.as_ref().map(|obstacle| obstacle.reason.clone());
        let changes = (&self.ledger.message, &self.ledger.obstacle) != (&before.message, &before.obstacle);
        if !changes || reason(&self.ledger.obstacle) != reason(&before.obstacle) {
            return;
        }
        let message = std::mem::replace(&mut self.ledger.message, before.message.clone());
        let obstacle = std::mem::replace(&mut self.ledger.obstacle, before.obstacle.clone());
        let is_all = self.ledger == *before;
        match before.reworded.map(|at| after(at, REWORD_SECONDS)).filter(|due| is_all && self.now < *due) {
            Some(due) => self.wake_at(due),
            None => {
                (self.ledger.message, self.ledger.obstacle) = (message, obstacle);
                if is_all {
                    self.ledger.reworded = Some(self.now);
                }
            }
        }
    }

    /// Of a job of many gangs, where all that is to be done is routine and something was written in this second: what to do instead, which
    /// is to look again in the next one. Pods that have ended stay until that is written down, so that nothing is lost by it.
    pub(super) fn gathered(&mut self) -> Option<Plan> {
        let gangs = self.ledger.gangs.len().max(self.world.ledger.gangs.len());
        if gangs < GATHERED_FROM || self.ledger == self.world.ledger {
            return None;
        }
        if self.world.ledger.gathered == Some(self.now) && self.is_routine() {
            return Some(Plan { wake: Some(after(self.now, 1)), ..Plan::default() });
        }
        self.ledger.gathered = Some(self.now);
        None
    }

    /// Whether all that has changed is that gangs have come to run, are done, or have started in the place of those that are.
    fn is_routine(&self) -> bool {
        let (before, now) = (&self.world.ledger, &self.ledger);
        let is_under_way = |gang: &Gang| matches!(gang.stage, Stage::Starting | Stage::Running);
        let stops_none = self.plan.stop.iter().all(|stop| stop.how == How::Clear);
        let gangs = now.gangs.iter().all(|(number, gang)| match before.gangs.get(number) {
            Some(known) => known.stage == gang.stage || is_under_way(known) && is_under_way(gang),
            None => gang.stage == Stage::Starting,
        });
        let counts = (now.phase, now.restarts, now.failures, now.observed_generation, now.stalled);
        stops_none
            && gangs
            && counts == (before.phase, before.restarts, before.failures, before.observed_generation, before.stalled)
            && (&now.obstacle, &now.failure, &now.excluded) == (&before.obstacle, &before.failure, &before.excluded)
    }
}
