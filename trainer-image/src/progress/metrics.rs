//! The progress as Prometheus metrics: few, fixed names without labels. What is not known yet is left out.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::server::Shared;

/// Media type of what [`encode`] writes.
pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry that reads the progress at each scrape.
pub(super) fn registry(progress: Arc<Shared>) -> Registry {
    let mut registry = Registry::with_prefix("trainyard");
    registry.register_collector(Box::new(FromProgress(progress)));
    registry
}

/// The text of a scrape.
pub(super) fn encode(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(1024);
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    Ok(text)
}

#[derive(Debug)]
struct FromProgress(Arc<Shared>);

impl Collector for FromProgress {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = self.0.read();
        let gauges = [
            ("attempt", "Number of the attempt, from 1", Some(f64::from(now.attempt))),
            ("epoch", "Epoch under way, from 1", Some(f64::from(now.epoch))),
            ("step", "Optimizer steps or rows done", Some(now.step as f64)),
            ("steps", "Optimizer steps or rows in all", Some(now.total_steps as f64)),
            ("loss", "Mean loss over the last steps", now.loss),
            ("metric", "The newest validation figure", now.metric),
            ("images_per_second", "Images per second over all ranks", Some(now.images_per_second)),
            ("eta_seconds", "Seconds left at this rate", now.eta_seconds.map(|seconds| seconds as f64)),
            ("checkpoint_step", "Step of the newest committed checkpoint", now.checkpoint_step.map(|step| step as f64)),
            (
                "gradient_bytes",
                "Bytes of gradients that each process has handed to the network in this attempt",
                now.gradient_bytes.map(|bytes| bytes as f64),
            ),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
            }
        }
        Ok(())
    }
}
