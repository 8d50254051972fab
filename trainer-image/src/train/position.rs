//! Where a training stands, apart from its tensors: what a checkpoint records beside them.

use std::collections::BTreeSet;

use crds::training::{EarlyStopping, Metric};
use serde::{Deserialize, Serialize};

use super::recipe::Basis;
use crate::data::Finding;
use crate::metrics::{History, Phases};
use crate::optim::{GradientScaler, Plateau};

/// Where a training stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Position {
    /// Epoch under way, from 0.
    pub(super) epoch: u32,
    /// Steps done of this epoch.
    pub(super) step_in_epoch: usize,
    /// Training samples done of this epoch, over all ranks: what counts if the world has another size at the resume.
    pub(super) samples_in_epoch: usize,
    /// Optimizer steps done in all.
    pub(super) step: u64,
    /// Those of them that changed the weights, if it was counted: gradients of 16 bits may overflow.
    #[serde(default)]
    pub(super) updates: Option<u64>,
    /// The scale of gradients of 16 bits.
    #[serde(default)]
    pub(super) scaler: Option<GradientScaler>,
    /// Sums of this epoch over all ranks.
    pub(super) sums: Sums,
    /// Seconds spent in this epoch.
    pub(super) seconds: f64,
    /// What they went to, on rank 0.
    #[serde(default)]
    pub(super) phases: Phases,
    /// The epochs before.
    pub(super) history: History,
    /// The best epoch before, whose weights lie in the checkpoint's section `best`.
    pub(super) best: Option<Best>,
    /// What the schedule has seen of the epochs before.
    #[serde(default)]
    pub(super) plateau: Plateau,
    /// What early stopping has seen of them.
    #[serde(default)]
    pub(super) patience: Patience,
    /// Digest of the list of training images.
    pub(super) data_digest: String,
    /// What it is trained by; none in a checkpoint of an older version.
    #[serde(default)]
    pub(super) basis: Option<Basis>,
    /// What was found in the data before the first epoch; on rank 0 alone.
    #[serde(default)]
    pub(super) findings: Vec<Finding>,
    /// What is said of images that could not be used, of all ranks; on rank 0 alone.
    #[serde(default)]
    pub(super) left_out: BTreeSet<String>,
}

/// Sums over training images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sums {
    /// Of the losses.
    pub(super) loss: f64,
    /// Of those that were right.
    pub(super) correct: f64,
    /// Of the images.
    pub(super) images: f64,
}

impl Sums {
    pub(super) fn add(&mut self, other: Sums) {
        self.loss += other.loss;
        self.correct += other.correct;
        self.images += other.images;
    }

    pub(super) fn mean_loss(&self) -> f64 {
        self.loss / self.images.max(1.0)
    }

    pub(super) fn accuracy(&self) -> f64 {
        self.correct / self.images.max(1.0)
    }
}

/// Figures of a validation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figures {
    /// Share of images that were right, 0 to 1.
    pub(super) accuracy: f64,
    /// Mean loss.
    pub(super) loss: f64,
}

impl Figures {
    /// What is watched, turned so that larger is better.
    fn watched(self, metric: Metric) -> f64 {
        match metric {
            Metric::Loss => -self.loss,
            Metric::Accuracy => self.accuracy,
        }
    }
}

/// The epoch whose weights are kept: the one with the best validation accuracy, of equal ones the one with the lesser loss;
/// where early stopping watches the loss, the one with the least loss, of equal ones the one with the better accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Best {
    /// Number of the epoch, from 0.
    pub(super) epoch: u32,
    /// Validation accuracy, 0 to 1.
    pub(super) accuracy: f64,
    /// Mean validation loss.
    pub(super) loss: f64,
}

impl Best {
    /// Whether this one is to be kept rather than `other`.
    pub(super) fn beats(&self, other: Option<Best>, metric: Metric) -> bool {
        let rank = |best: &Best| match metric {
            Metric::Accuracy => (best.accuracy, -best.loss),
            Metric::Loss => (-best.loss, best.accuracy),
        };
        other.is_none_or(|other| rank(self) > rank(&other))
    }
}

/// What early stopping has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Patience {
    /// The best of what is watched, larger being better; none before the first epoch.
    #[serde(with = "crate::optim::exact")]
    best: Option<f64>,
    /// Epochs since then.
    waited: u32,
}

impl Patience {
    /// The end of an epoch.
    pub(super) fn observe(&mut self, settings: &EarlyStopping, figures: Figures) {
        let now = figures.watched(settings.metric);
        if self.best.is_none_or(|best| now > best + settings.min_delta) {
            *self = Patience { best: Some(now), waited: 0 };
        } else {
            self.waited += 1;
        }
    }

    /// Whether the training is to end.
    pub(super) fn is_over(&self, settings: &EarlyStopping) -> bool {
        self.waited >= settings.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_epoch_has_the_best_figure_then_the_other_one_and_comes_first() {
        let best = |epoch, accuracy, loss| Best { epoch, accuracy, loss };
        let table = [
            (best(1, 0.9, 1.0), best(0, 0.8, 0.1), [true, false]),
            (best(1, 0.9, 0.5), best(0, 0.9, 0.6), [true, true]),
            (best(1, 0.9, 0.5), best(0, 0.8, 0.5), [true, true]),
            (best(1, 0.9, 0.5), best(0, 0.9, 0.5), [false, false]),
            (best(1, 0.8, 0.1), best(0, 0.9, 0.5), [false, true]),
        ];
        for (later, earlier, beats) in table {
            let got = [Metric::Accuracy, Metric::Loss].map(|metric| later.beats(Some(earlier), metric));
            assert_eq!(got, beats, "{later:?} against {earlier:?}");
            assert!(later.beats(None, Metric::Accuracy));
        }
    }

    #[test]
    fn patience_ends_after_so_many_epochs_without_an_improvement_that_counts() {
        let stopping = |metric, min_delta| EarlyStopping { metric, patience: 2, min_delta };
        let losses = [3.0, 2.0, 1.95, 1.85, 1.8, 0.1];
        let table = [
            (stopping(Metric::Loss, 0.0), None),
            (stopping(Metric::Loss, 0.2), Some(3)),
            (stopping(Metric::Accuracy, 0.0), Some(2)),
        ];
        for (settings, ends_after) in table {
            let mut patience = Patience::default();
            let ended = losses.iter().position(|&loss| {
                patience.observe(&settings, Figures { accuracy: 0.5, loss });
                patience = serde_json::from_str(&serde_json::to_string(&patience).unwrap()).unwrap();
                patience.is_over(&settings)
            });
            assert_eq!(ended, ends_after, "{settings:?}");
        }
    }
}
