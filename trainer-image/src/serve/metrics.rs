//! Figures of the server for Prometheus, few and with few labels, and the two that an autoscaler looks at. A model in a label is one
//! that the server was told to serve: what clients call it makes no series.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::contract::metrics as names;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Media type of a scrape.
pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What an autoscaler sees is over the last half to whole of this.
const WINDOW: Duration = Duration::from_secs(30);

/// The status of a request whose client left before its answer, as other servers count them.
const LEFT: u16 = 499;

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    /// `rest` or `grpc`.
    protocol: &'static str,
    /// `infer` or `explain`.
    method: &'static str,
    /// The model; empty if there is none of the name that was asked for, or none was read.
    model: String,
    /// Status of HTTP, also for gRPC's errors of the same meaning.
    code: u16,
}

/// A request from its coming to its end. If it is dropped before, its client has left.
#[must_use = "a request that is dropped counts as one whose client left"]
#[derive(Debug)]
pub(super) struct Coming {
    metrics: Arc<Metrics>,
    ended: Ended,
    is_counted: bool,
}

impl Coming {
    /// It was answered, with this status.
    pub(super) fn ended(mut self, code: u16) {
        self.ended.code = code;
    }

    /// It is counted by somebody else from now on.
    pub(super) fn goes_on(mut self) {
        self.is_counted = true;
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if !self.is_counted {
            self.metrics.ended(&self.ended);
        }
    }
}

/// The label of what differs by model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    model: Arc<str>,
}

/// Times for each model.
type Times = Family<Model, Histogram, fn() -> Histogram>;

/// From 0.1 ms to 26 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 4.0, 10))
}

/// The figures.
#[derive(Debug)]
pub(super) struct Metrics {
    requests: Family<Ended, Counter>,
    images: Counter,
    queue: Times,
    preprocess: Histogram,
    inference: Times,
    batch: Histogram,
    swaps: Counter,
    failed_swaps: Counter,
    recent: Mutex<Recent>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            requests: Family::default(),
            images: Counter::default(),
            queue: Family::new_with_constructor(seconds),
            preprocess: seconds(),
            inference: Family::new_with_constructor(seconds),
            batch: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            swaps: Counter::default(),
            failed_swaps: Counter::default(),
            recent: Mutex::new(Recent::new(Instant::now())),
        }
    }
}

impl Metrics {
    /// Counts a request from now on. `model` is the name of one that there is, or empty.
    pub(super) fn coming(self: &Arc<Metrics>, protocol: &'static str, method: &'static str, model: &str) -> Coming {
        let ended = Ended { protocol, method, model: model.to_owned(), code: LEFT };
        Coming { metrics: Arc::clone(self), ended, is_counted: false }
    }

    fn ended(&self, ended: &Ended) {
        self.requests.get_or_create(ended).inc();
        self.recent().add(Instant::now(), |sums| sums.requests += 1);
    }

    /// An image has waited for its batch.
    pub(super) fn waited(&self, model: &Arc<str>, time: Duration) {
        self.queue.get_or_create(&Model { model: Arc::clone(model) }).observe(time.as_secs_f64());
        self.recent().add(Instant::now(), |sums| {
            sums.waits += 1;
            sums.waited += time;
        });
    }

    /// An image was decoded and brought to the network's size.
    pub(super) fn preprocessed(&self, time: Duration) {
        self.preprocess.observe(time.as_secs_f64());
    }

    /// A batch went through the network.
    pub(super) fn computed(&self, model: &Arc<str>, images: usize, time: Duration) {
        self.images.inc_by(images as u64);
        self.batch.observe(images as f64);
        self.inference.get_or_create(&Model { model: Arc::clone(model) }).observe(time.as_secs_f64());
    }

    /// A model was replaced by a newer version.
    pub(super) fn swapped(&self) {
        self.swaps.inc();
    }

    /// A newer version could not take the place of a model.
    pub(super) fn swap_failed(&self) {
        self.failed_swaps.inc();
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text of a scrape. `waiting` are the images that wait now.
    pub(super) fn encode(&self, waiting: usize) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        let mut serving = Registry::with_prefix("trainyard_serving");
        serving.register("requests", "Requests that ended", self.requests.clone());
        serving.register("images", "Images that went through the network", self.images.clone());
        serving.register("model_swaps", "Models that were replaced by a newer version", self.swaps.clone());
        let help = "Times that a newer version of a model could not be loaded";
        serving.register("failed_model_swaps", help, self.failed_swaps.clone());
        let times = [
            ("queue", "Time that an image waits for its batch", &self.queue),
            ("inference", "Time of a batch in the network", &self.inference),
        ];
        for (name, help, histograms) in times {
            serving.register_with_unit(name, help, Unit::Seconds, histograms.clone());
        }
        let help = "Time to decode an image and bring it to the network's size";
        serving.register_with_unit("preprocess", help, Unit::Seconds, self.preprocess.clone());
        serving.register("batch_images", "Images of a batch", self.batch.clone());
        let now = self.recent().figures(Instant::now());
        registry.register_collector(Box::new(Gauges([
            (names::QUEUE_MILLISECONDS, "Mean time that an image waited lately", now.queue_milliseconds),
            (names::REQUESTS_PER_SECOND, "Requests that ended lately, a second", now.requests_per_second),
            ("trainyard_serving_waiting_images", "Images on their way to the network", waiting as f64),
        ])));
        let mut text = String::with_capacity(8192);
        prometheus_client::encoding::text::encode_registry(&mut text, &serving)?;
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Gauges([(&'static str, &'static str, f64); 3]);

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in self.0 {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

/// What an autoscaler sees.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    queue_milliseconds: f64,
    requests_per_second: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    requests: u64,
    waits: u64,
    waited: Duration,
}

/// Sums over the present half of the window and the one before.
#[derive(Debug)]
struct Recent {
    start: Instant,
    present: Sums,
    before: Option<Sums>,
}

impl Recent {
    fn new(now: Instant) -> Recent {
        Recent { start: now, present: Sums::default(), before: None }
    }

    fn add(&mut self, now: Instant, change: impl FnOnce(&mut Sums)) {
        self.turn(now);
        change(&mut self.present);
    }

    fn turn(&mut self, now: Instant) {
        let halves = now.saturating_duration_since(self.start).as_secs() / (WINDOW.as_secs() / 2);
        if halves > 0 {
            self.before = Some(if halves == 1 { std::mem::take(&mut self.present) } else { Sums::default() });
            self.present = Sums::default();
            self.start += (WINDOW / 2) * halves as u32;
        }
    }

    fn figures(&mut self, now: Instant) -> Figures {
        self.turn(now);
        let before = self.before.unwrap_or_default();
        let seconds = now.saturating_duration_since(self.start).as_secs_f64()
            + if self.before.is_some() { WINDOW.as_secs_f64() / 2.0 } else { 0.0 };
        let waits = self.present.waits + before.waits;
        let waited = self.present.waited + before.waited;
        Figures {
            queue_milliseconds: if waits == 0 { 0.0 } else { waited.as_secs_f64() * 1e3 / waits as f64 },
            requests_per_second: (self.present.requests + before.requests) as f64 / seconds.max(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoscaler_sees_what_was_lately() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut recent = Recent::new(start);
        let wait = |sums: &mut Sums| {
            sums.requests += 1;
            sums.waits += 1;
            sums.waited += Duration::from_millis(40);
        };
        (0..20).for_each(|_| recent.add(at(0), wait));
        let figures = |queue_milliseconds, requests_per_second| Figures { queue_milliseconds, requests_per_second };
        assert_eq!(recent.figures(at(10)), figures(40.0, 2.0));
        assert_eq!(recent.figures(at(20)), figures(40.0, 1.0));
        assert_eq!(recent.figures(at(31)), figures(0.0, 0.0));
        recent.add(at(100), |sums| sums.requests += 16);
        assert_eq!(recent.figures(at(106)), figures(0.0, 16.0 / (15.0 + 1.0)));
    }

    #[test]
    fn a_scrape_has_the_names_that_an_autoscaler_asks_for() {
        let metrics = Arc::new(Metrics::default());
        metrics.coming("rest", "infer", "a").ended(200);
        drop(metrics.coming("rest", "infer", "a"));
        metrics.coming("grpc", "infer", "").goes_on();
        let model = Arc::from("a");
        metrics.waited(&model, Duration::from_millis(3));
        metrics.computed(&model, 4, Duration::from_millis(50));
        let text = metrics.encode(2).unwrap();
        for line in [
            "trainyard_serving_requests_total{protocol=\"rest\",method=\"infer\",model=\"a\",code=\"200\"} 1",
            // One whose client left.
            "trainyard_serving_requests_total{protocol=\"rest\",method=\"infer\",model=\"a\",code=\"499\"} 1",
            "trainyard_serving_images_total 4",
            "trainyard_serving_queue_seconds_count{model=\"a\"} 1",
            "trainyard_serving_inference_seconds_count{model=\"a\"} 1",
            "trainyard_serving_batch_images_sum 4.0",
            "trainyard_queue_milliseconds 3.0",
            "trainyard_serving_waiting_images 2.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(!text.contains("grpc"), "what somebody else counts is not counted twice: {text}");
    }
}
