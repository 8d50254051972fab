//! The course of a training: one entry for each epoch, as it stands in `metrics.json` and as the report draws it.

use serde::{Deserialize, Serialize};

use super::phases::Phases;
use super::summary::Summary;

/// What is known at the end of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Epoch {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Optimizer steps since the start of the training.
    pub steps: u64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean loss of the training images as they were trained on (augmented, with the weights of their step).
    pub train_loss: f64,
    /// Share of the training images that were right, likewise, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_accuracy: Option<f64>,
    /// Mean loss of the validation images after the epoch; none if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// Share of the validation images that were right after the epoch, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_accuracy: Option<f64>,
    /// Training images per second over all ranks, validation left out.
    pub images_per_second: f64,
    /// Seconds the epoch took, validation included.
    pub seconds: f64,
    /// What they went to, on rank 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
}

/// What `metrics.json` holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The epochs in their order.
    pub epochs: Vec<Epoch>,
    /// Number of the epoch whose weights the model has, from 1; none without validation: it has those of the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_epoch: Option<u32>,
    /// The figures of the model that was kept, on the validation images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Summary>,
    /// Digest of the list of these images: figures with the same one are of the same images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_digest: Option<String>,
}

impl History {
    /// Adds the end of an epoch. An entry of the same or a later number goes first: after a resume the epochs that are
    /// trained again replace what an earlier attempt wrote.
    pub fn push(&mut self, epoch: Epoch) {
        self.epochs.retain(|earlier| earlier.epoch < epoch.epoch);
        self.epochs.push(epoch);
    }

    /// The epoch whose weights were kept; where that is not said, the one with the best validation accuracy, the first of
    /// equals, and without validation the one with the least training loss.
    pub fn best(&self) -> Option<&Epoch> {
        if let Some(kept) = self.epochs.iter().find(|epoch| Some(epoch.epoch) == self.kept_epoch) {
            return Some(kept);
        }
        let figure = |epoch: &Epoch| epoch.validation_accuracy.unwrap_or(-epoch.train_loss);
        self.epochs.iter().reduce(|best, epoch| if figure(epoch) > figure(best) { epoch } else { best })
    }

    /// What the seconds of all epochs went to, as far as it was measured; none if it was in no epoch.
    pub fn phases(&self) -> Option<Phases> {
        let measured = self.epochs.iter().filter_map(|epoch| epoch.phases);
        measured.reduce(|mut all, one| {
            all.add(&one);
            all
        })
    }

    /// Seconds of all epochs.
    pub fn seconds(&self) -> f64 {
        self.epochs.iter().map(|epoch| epoch.seconds).sum()
    }
}
