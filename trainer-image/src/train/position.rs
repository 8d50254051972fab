//! Where a training stands, apart from its tensors: what a checkpoint records beside them.

use serde::{Deserialize, Serialize};

use crate::metrics::History;

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
    /// Sums of this epoch over all ranks.
    pub(super) sums: Sums,
    /// Seconds spent in this epoch.
    pub(super) seconds: f64,
    /// The epochs before.
    pub(super) history: History,
    /// The best epoch before, whose weights lie in the checkpoint's section `best`.
    pub(super) best: Option<Best>,
    /// Digest of the list of training images.
    pub(super) data_digest: String,
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

/// The epoch whose weights are kept: the one with the best validation accuracy, of equal ones the one with the lesser loss.
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
    pub(super) fn beats(&self, other: Option<Best>) -> bool {
        other.is_none_or(|other| (self.accuracy, -self.loss) > (other.accuracy, -other.loss))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_epoch_has_the_best_accuracy_then_the_least_loss_and_comes_first() {
        let best = |epoch, accuracy, loss| Best { epoch, accuracy, loss };
        assert!(best(0, 0.1, 9.0).beats(None));
        assert!(best(1, 0.9, 1.0).beats(Some(best(0, 0.8, 0.1))));
        assert!(best(1, 0.9, 0.5).beats(Some(best(0, 0.9, 0.6))));
        assert!(!best(1, 0.9, 0.5).beats(Some(best(0, 0.9, 0.5))));
        assert!(!best(1, 0.8, 0.1).beats(Some(best(0, 0.9, 0.5))));
    }
}
