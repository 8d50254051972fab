//! What is not written down at once: it comes often, and nothing rests on it.

use super::{Draft, after};
use crate::observe::Obstacle;

/// Seconds between two writes of a sentence that alone has changed: twice a minute.
const REWORD_SECONDS: u64 = 30;

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
}
