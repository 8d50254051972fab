//! The progress of a job out of that of its gangs.

use std::collections::{BTreeMap, BTreeSet};

use crds::contract::Progress;
use serde::{Deserialize, Serialize};

use crate::build::fingerprint::fnv;

/// How far a gang is, in so few words that thousands can be remembered: three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u64, u32)", into = "(u32, u64, u32)")]
pub struct Mark {
    /// Number of the attempt.
    pub attempt: u32,
    /// Optimizer steps or rows done.
    pub step: u64,
    /// Fingerprint of its epoch and its stage.
    pub stage: u32,
}

impl From<(u32, u64, u32)> for Mark {
    fn from((attempt, step, stage): (u32, u64, u32)) -> Mark {
        Mark { attempt, step, stage }
    }
}

impl From<Mark> for (u32, u64, u32) {
    fn from(mark: Mark) -> (u32, u64, u32) {
        (mark.attempt, mark.step, mark.stage)
    }
}

impl Mark {
    /// The mark of what a gang has said.
    pub fn of(progress: &Progress) -> Mark {
        let stage = fnv(progress.epoch.to_le_bytes().into_iter().chain(progress.stage.bytes()));
        Mark { attempt: progress.attempt, step: progress.step, stage: (stage >> 32) as u32 }
    }
}

/// The progress of a job of so many gangs out of what has been heard of some, by their numbers; `None` if of none.
///
/// Gangs have equal shares of the work, one row more or less. Those of which nothing was heard count with the mean of the
/// others: nothing of it is done yet, or, of those that are `done`, all of it. Only those that are not done have a rate.
pub fn of_job(heard: &BTreeMap<u32, Progress>, gangs: u32, done: &BTreeSet<u32>) -> Option<Progress> {
    let newest = heard.values().max_by_key(|progress| progress.attempt)?.clone();
    if gangs <= 1 {
        return Some(newest);
    }
    let is_done = |gang: &&u32| done.contains(gang);
    let shares: u64 = heard.values().map(|progress| progress.total_steps).sum();
    let share = shares / heard.len() as u64;
    let unheard = u64::from(gangs).saturating_sub(heard.len() as u64);
    let total_steps = shares + share * unheard;
    let steps_heard: u64 = heard.iter().map(|(gang, it)| if is_done(&gang) { it.total_steps } else { it.step }).sum();
    let done_unheard = done.iter().filter(|gang| !heard.contains_key(gang)).count() as u64;
    let step = steps_heard + share * done_unheard;
    let live = heard.iter().filter(|(gang, _)| !is_done(gang)).map(|(_, progress)| progress);
    let images_per_second: f64 = live.map(|progress| progress.images_per_second).sum();
    // A step of a ScoringJob, which alone has several gangs, is an image.
    let left = total_steps.saturating_sub(step) as f64;
    let eta_seconds = (images_per_second > 0.0).then(|| (left / images_per_second).ceil() as u64);
    Some(Progress { step, total_steps, images_per_second, eta_seconds, ..newest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(step: u64, total_steps: u64, images_per_second: f64) -> Progress {
        Progress { attempt: 1, step, total_steps, images_per_second, ..Progress::default() }
    }

    #[test]
    fn shards_that_nothing_was_heard_of_count_as_large_as_the_others() {
        let heard = BTreeMap::from([(0, shard(90, 100, 9.0)), (2, shard(50, 100, 10.0)), (3, shard(0, 100, 0.0))]);
        // The first has finished since, and so has one that was never heard: of ten shards two, a half of one, and none of another.
        let whole = of_job(&heard, 10, &BTreeSet::from([0, 1])).unwrap();
        assert_eq!((whole.step, whole.total_steps), (250, 1000));
        assert!((whole.images_per_second - 10.0).abs() < 1e-9);
        assert_eq!(whole.eta_seconds, Some(75));
        assert_eq!(of_job(&BTreeMap::new(), 10, &BTreeSet::new()), None);
    }

    #[test]
    fn one_gang_is_told_as_it_tells_itself() {
        let heard = BTreeMap::from([(0, Progress { eta_seconds: Some(7), ..shard(3, 10, 2.0) })]);
        assert_eq!(of_job(&heard, 1, &BTreeSet::new()).as_ref(), heard.get(&0));
    }
}
