//! When a checkpoint is due: a pure function of steps and time.

use std::time::{Duration, Instant};

/// How often checkpoints are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// After so many optimizer steps.
    EverySteps(u64),
    /// At the first step after so long.
    Every(Duration),
}

/// Where a training stands, and when.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Optimizer steps done.
    pub step: u64,
    /// Now.
    pub now: Instant,
}

impl Policy {
    /// Whether a checkpoint is due, the newest being from `last`.
    pub fn is_due(self, last: Clock, current: Clock) -> bool {
        match self {
            Policy::EverySteps(steps) => current.step >= last.step + steps,
            Policy::Every(period) => current.step > last.step && current.now.duration_since(last.now) >= period,
        }
    }
}

/// What decides before a step whether a checkpoint is due after it.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// How often.
    pub policy: Policy,
    /// That of the newest checkpoint.
    pub saved: Clock,
    /// The next step, and now.
    pub next: Clock,
    /// Whether another checkpoint has to be waited for.
    pub is_held_up: bool,
}

impl Due {
    /// Whether one is due after the next step.
    pub fn is_due(self) -> bool {
        !self.is_held_up && self.policy.is_due(self.saved, self.next)
    }

    /// The same for the step after it, given whether there is one after the next.
    pub fn then(self, saves: bool) -> Due {
        let next = Clock { step: self.next.step + 1, ..self.next };
        Due { saved: if saves { self.next } else { self.saved }, next, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_the_same_a_step_ahead() {
        let now = Instant::now();
        let at = |step| Clock { step, now };
        let due = |policy, saved, next| Due { policy, saved: at(saved), next: at(next), is_held_up: false };
        for steps in 1..5 {
            let (mut saved, mut ahead, mut given) = (0, Vec::new(), None);
            for next in 1..20 {
                let due = due(Policy::EverySteps(steps), saved, next);
                let saves = given.unwrap_or_else(|| due.is_due());
                given = Some(due.then(saves).is_due());
                if saves {
                    ahead.push(next);
                    saved = next;
                }
            }
            assert_eq!(ahead, (1..20).filter(|step| step % steps == 0).collect::<Vec<_>>(), "every {steps}");
        }
        let minute = Due { saved: Clock { step: 0, now }, ..due(Policy::Every(Duration::from_secs(60)), 0, 5) };
        let later = Due { next: Clock { step: 5, now: now + Duration::from_secs(60) }, ..minute };
        assert!(!minute.is_due() && later.is_due() && later.then(false).is_due());
        assert!(!later.then(true).is_due(), "the one before is as good");
        assert!(!Due { is_held_up: true, ..later }.is_due() && !Due { is_held_up: true, ..later }.then(false).is_due());
    }

    #[test]
    fn a_checkpoint_is_due_after_steps_or_after_time() {
        let start = Instant::now();
        let at = |step, seconds| Clock { step, now: start + Duration::from_secs(seconds) };
        let minute = Policy::Every(Duration::from_secs(60));
        let table = [
            (Policy::EverySteps(10), at(0, 0), at(9, 1000), false),
            (Policy::EverySteps(10), at(0, 0), at(10, 0), true),
            (Policy::EverySteps(10), at(10, 0), at(19, 0), false),
            (minute, at(0, 0), at(100, 59), false),
            (minute, at(0, 0), at(1, 60), true),
            (minute, at(7, 0), at(7, 600), false),
        ];
        for (policy, last, current, due) in table {
            assert_eq!(policy.is_due(last, current), due, "{policy:?} {last:?} {current:?}");
        }
    }
}
