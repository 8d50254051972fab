//! The progress of a job out of that of its gangs.

use crds::contract::Progress;

/// The progress of all gangs, summed up; `None` if none has told any.
pub fn sum<'a>(gangs: impl IntoIterator<Item = &'a Progress>) -> Option<Progress> {
    gangs.into_iter().cloned().reduce(|a, b| Progress {
        attempt: a.attempt.max(b.attempt),
        step: a.step + b.step,
        total_steps: a.total_steps + b.total_steps,
        images_per_second: a.images_per_second + b.images_per_second,
        eta_seconds: a.eta_seconds.max(b.eta_seconds),
        ..a
    })
}
