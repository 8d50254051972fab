//! What a version of a model has done since it was loaded, as the protocol's statistics extension tells it. What the extension
//! counts by requests is counted by images where the two differ: a mean is then what an image takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};

/// The figures of a version, which all its threads add to.
#[derive(Debug)]
pub(super) struct Statistics {
    /// The name of the model.
    pub(super) model: Arc<str>,
    figures: Mutex<Figures>,
}

/// A request that is being answered. What is dropped without an answer, also because its client left, was not answered.
pub(super) struct Asked<'a> {
    statistics: &'a Statistics,
    start: Instant,
    is_answered: bool,
}

impl Asked<'_> {
    /// There is an answer.
    pub(super) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.statistics.ended(self.is_answered, self.start.elapsed());
    }
}

/// The figures at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Requests that were answered.
    pub(super) success: Spent,
    /// Requests that were not.
    pub(super) fail: Spent,
    /// Images that waited for their batch.
    pub(super) queue: Spent,
    /// Images that were decoded and brought to the network's size.
    pub(super) input: Spent,
    /// Batches that went through the network, by their images.
    pub(super) batches: BTreeMap<usize, Spent>,
    /// When the last batch went through: milliseconds since 1970.
    pub(super) last: u64,
}

/// How often something was done, and the time of all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Spent {
    pub(super) count: u64,
    pub(super) ns: u64,
}

impl Spent {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.ns = self.ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl Statistics {
    /// None yet, of this model.
    pub(super) fn new(model: &str) -> Statistics {
        Statistics { model: model.into(), figures: Mutex::default() }
    }

    fn change(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A request has come.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked { statistics: self, start: Instant::now(), is_answered: false }
    }

    fn ended(&self, is_answered: bool, time: Duration) {
        self.change(|figures| {
            let spent = if is_answered { &mut figures.success } else { &mut figures.fail };
            spent.add(time);
        });
    }

    /// An image has waited for its batch.
    pub(super) fn waited(&self, time: Duration) {
        self.change(|figures| figures.queue.add(time));
    }

    /// An image was decoded and brought to the network's size.
    pub(super) fn preprocessed(&self, time: Duration) {
        self.change(|figures| figures.input.add(time));
    }

    /// A batch went through the network.
    pub(super) fn computed(&self, images: usize, time: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.change(|figures| {
            figures.batches.entry(images).or_default().add(time);
            figures.last = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        });
    }

    /// As they are now.
    pub(super) fn figures(&self) -> Figures {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Figures {
    /// Images that went through the network.
    pub(super) fn images(&self) -> u64 {
        self.batches.iter().map(|(images, spent)| *images as u64 * spent.count).sum()
    }

    /// Batches that did.
    pub(super) fn executions(&self) -> u64 {
        self.batches.values().map(|spent| spent.count).sum()
    }

    /// Time that images took in the network: each as long as its batch.
    pub(super) fn infer(&self) -> Spent {
        let ns = self.batches.iter().map(|(images, spent)| spent.ns.saturating_mul(*images as u64));
        Spent { count: self.images(), ns: ns.fold(0, u64::saturating_add) }
    }

    /// As the extension's JSON has them.
    pub(super) fn to_json(&self, model: &str, version: &str) -> Value {
        let none = Spent::default();
        let batch = |(images, spent): (&usize, &Spent)| json!({"batch_size": images, "compute_input": none, "compute_infer": spent, "compute_output": none});
        json!({
            "name": model,
            "version": version,
            "last_inference": self.last,
            "inference_count": self.images(),
            "execution_count": self.executions(),
            "inference_stats": {
                "success": self.success, "fail": self.fail, "queue": self.queue, "compute_input": self.input,
                "compute_infer": self.infer(), "compute_output": none, "cache_hit": none, "cache_miss": none,
            },
            "batch_stats": self.batches.iter().map(batch).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_added_up() {
        let statistics = Statistics::new("a");
        let ns = Duration::from_nanos;
        statistics.ended(true, ns(90));
        statistics.ended(false, ns(7));
        [3, 4].into_iter().for_each(|time| statistics.waited(ns(time)));
        statistics.preprocessed(ns(5));
        [(1, 10), (2, 16), (2, 18)].into_iter().for_each(|(images, time)| statistics.computed(images, ns(time)));
        let mut figures = statistics.figures();
        assert!(figures.last > 0);
        figures.last = 8;
        let spent = |count: u64, ns: u64| json!({"count": count, "ns": ns});
        let none = spent(0, 0);
        let batch = |size: usize, infer: Value| json!({"batch_size": size, "compute_input": none, "compute_infer": infer, "compute_output": none});
        let expected = json!({
            "name": "a", "version": "b", "last_inference": 8, "inference_count": 5, "execution_count": 3,
            "inference_stats": {
                "success": spent(1, 90), "fail": spent(1, 7), "queue": spent(2, 7), "compute_input": spent(1, 5),
                "compute_infer": spent(5, 78), "compute_output": none, "cache_hit": none, "cache_miss": none,
            },
            "batch_stats": [batch(1, spent(1, 10)), batch(2, spent(2, 34))],
        });
        assert_eq!(figures.to_json("a", "b"), expected);
    }

    #[test]
    fn whoever_leaves_was_not_answered() {
        let statistics = Statistics::new("a");
        statistics.asked().answered();
        drop(statistics.asked());
        let figures = statistics.figures();
        assert_eq!((figures.success.count, figures.fail.count), (1, 1));
    }
}
