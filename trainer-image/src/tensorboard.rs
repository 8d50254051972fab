//! The event file that TensorBoard opens: records as TensorFlow frames them, each with the figures of one step.
//!
//! An attempt writes a file of its own. It begins with a mark at the step it resumes from, at which TensorBoard drops the
//! later steps of the attempts before, and is written whole again as it grows: what was written stays where it was.
//!
//! ```text
//!  steps, epochs ─► Events (in memory, a few additions each) ─ at an epoch's end ─► Publisher (a thread) ─► output folder
//! ```
//!
//! Formats: `tensorflow/core/util/event.proto`, `tensorflow/core/framework/summary.proto`,
//! `tensorflow/core/lib/io/record_writer.h`.

mod publisher;
#[cfg(test)]
mod tests;

use crc_fast::{CrcAlgorithm, checksum};
use jiff::Timestamp;
use prost::Message;

pub use publisher::Publisher;

use crate::metrics::Epoch;

/// Folder of the event files below the output.
pub const FOLDER: &str = "tensorboard";
/// Points that a curve by steps has at most: each step while there are no more, means of as many steps as it takes
/// beyond. It bounds the file to about a megabyte.
pub const MOST_POINTS: u64 = 10_000;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.SessionStatus.START`.
const START: i32 = 1;

/// The event file of one attempt.
#[derive(Clone, Debug)]
pub struct Events {
    name: String,
    bytes: Vec<u8>,
    /// Steps that make one point.
    every: u64,
    /// Since the last point: sum of the losses, steps, images.
    losses: f64,
    steps: u64,
    images: f64,
    since: Timestamp,
}

impl Events {
    /// A file that begins at `step`, of a training of `total_steps`.
    pub fn begin(job: &str, attempt: u32, step: u64, total_steps: u64, now: Timestamp) -> Events {
        // TensorBoard reads the files of a folder in the order of their names.
        let name = format!("{FOLDER}/events.out.tfevents.{:010}.{job}.attempt-{attempt}", now.as_second());
        let every = total_steps.div_ceil(MOST_POINTS).max(1);
        let mut events = Events { name, bytes: Vec::new(), every, losses: 0.0, steps: 0, images: 0.0, since: now };
        events.push(&Event { file_version: Some("brain.Event:2".to_owned()), ..Event::at(0, now) });
        if step > 0 {
            // What is dropped begins at this step; the step itself was done.
            let session_log = Some(SessionLog { status: START });
            events.push(&Event { session_log, ..Event::at(step + 1, now) });
        }
        events
    }

    /// Path of the file below the output folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file as it is now.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Steps are about to begin: what came before is no time of theirs.
    pub fn steps_begin(&mut self, now: Timestamp) {
        self.since = now;
    }

    /// Step number `step`, from 1, was made by all ranks with this mean loss on rank 0, learning rate and number of images.
    pub fn step(&mut self, step: u64, loss: f64, learning_rate: f64, images: f64, now: Timestamp) {
        self.losses += loss;
        self.steps += 1;
        self.images += images;
        if !step.is_multiple_of(self.every) {
            return;
        }
        let seconds = (now.as_microsecond() - self.since.as_microsecond()) as f64 / 1e6;
        let figures = [
            ("step/loss", Some(self.losses / self.steps as f64)),
            ("step/learning_rate", Some(learning_rate)),
            ("step/images_per_second", (seconds > 0.0).then(|| self.images / seconds)),
        ];
        self.scalars(step, now, &figures);
        (self.losses, self.steps, self.images, self.since) = (0.0, 0, 0.0, now);
    }

    /// An epoch came to its end.
    pub fn epoch(&mut self, epoch: &Epoch, now: Timestamp) {
        let figures = [
            ("loss/train", Some(epoch.train_loss)),
            ("loss/validation", epoch.validation_loss),
            ("accuracy/train", epoch.train_accuracy),
            ("accuracy/validation", epoch.validation_accuracy),
            ("epoch/images_per_second", Some(epoch.images_per_second)),
            ("epoch/seconds", Some(epoch.seconds)),
        ];
        self.scalars(epoch.steps, now, &figures);
    }

    fn scalars(&mut self, step: u64, now: Timestamp, figures: &[(&str, Option<f64>)]) {
        let values = figures.iter().filter_map(|(tag, figure)| {
            figure.map(|figure| Value { tag: (*tag).to_owned(), simple_value: Some(figure as f32) })
        });
        let summary = Some(Summary { values: values.collect() });
        self.push(&Event { summary, ..Event::at(step, now) });
    }

    /// A record: length, its check, content, its check.
    fn push(&mut self, event: &Event) {
        let content = event.encode_to_vec();
        let length = (content.len() as u64).to_le_bytes();
        for part in [length.as_slice(), content.as_slice()] {
            self.bytes.extend_from_slice(part);
            self.bytes.extend_from_slice(&masked(part).to_le_bytes());
        }
    }
}

impl Event {
    fn at(step: u64, now: Timestamp) -> Event {
        let wall_time = now.as_microsecond() as f64 / 1e6;
        Event { wall_time, step: i64::try_from(step).unwrap_or(i64::MAX), ..Event::default() }
    }
}

/// CRC-32C, turned and shifted so that a checksum of checksums stays one.
fn masked(bytes: &[u8]) -> u32 {
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}
