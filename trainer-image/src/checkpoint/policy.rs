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

#[cfg(test)]
mod tests {
    use super::*;

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
