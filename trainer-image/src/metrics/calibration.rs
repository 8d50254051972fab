//! Whether a model is as often right as it is sure: what it was sure of and how often it was right, in bins of the
//! probability that it gave its prediction. The bins add up across ranks.

use serde::{Deserialize, Serialize};

/// Bins of equal width between 0 and 1, as Guo et al. 2017 have them (<https://arxiv.org/abs/1706.04599>, section 4).
pub const CALIBRATION_BINS: usize = 15;

/// Predictions of about the same probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReliabilityPoint {
    /// Mean probability that the model gave its prediction, 0 to 1.
    pub confidence: f64,
    /// Share of the predictions that were right, 0 to 1.
    pub accuracy: f64,
    /// Predictions.
    pub count: u64,
}

/// Predictions by the probability that the model gave them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Calibration {
    /// Predictions in each bin.
    counts: [u64; CALIBRATION_BINS],
    /// Those of them that were right.
    right: [u64; CALIBRATION_BINS],
    /// Sum of their probabilities.
    confidence: [f64; CALIBRATION_BINS],
}

impl Calibration {
    /// Numbers of [`sums`](Self::sums).
    pub(super) const SUMS: usize = 3 * CALIBRATION_BINS;

    /// Nothing counted yet.
    pub(super) fn new() -> Self {
        let zeros = [0; CALIBRATION_BINS];
        Self { counts: zeros, right: zeros, confidence: [0.0; CALIBRATION_BINS] }
    }

    /// Counts one prediction of this probability, 0 to 1. A bin holds its upper edge, as in scikit-learn's
    /// `calibration_curve`.
    pub(super) fn add(&mut self, probability: f64, is_right: bool) {
        let below = |edge: &usize| (*edge as f64 * (1.0 / CALIBRATION_BINS as f64)) < probability;
        let bin = (1..CALIBRATION_BINS).filter(below).count();
        self.counts[bin] += 1;
        self.right[bin] += u64::from(is_right);
        self.confidence[bin] += probability;
    }

    /// Adds the counts of another rank.
    pub(super) fn merge(&mut self, other: &Self) {
        for bin in 0..CALIBRATION_BINS {
            self.counts[bin] += other.counts[bin];
            self.right[bin] += other.right[bin];
            self.confidence[bin] += other.confidence[bin];
        }
    }

    /// All of it as numbers to add up.
    pub(super) fn sums(&self) -> impl Iterator<Item = f64> {
        let counts = self.counts.iter().chain(&self.right).map(|count| *count as f64);
        counts.chain(self.confidence.iter().copied())
    }

    /// What has these [`SUMS`](Self::SUMS) sums.
    pub(super) fn from_sums(sums: &[f64]) -> Self {
        let part = |number: usize, bin: usize| sums[number * CALIBRATION_BINS + bin];
        Self {
            counts: std::array::from_fn(|bin| part(0, bin) as u64),
            right: std::array::from_fn(|bin| part(1, bin) as u64),
            confidence: std::array::from_fn(|bin| part(2, bin)),
        }
    }

    /// The bins that have a prediction, by rising probability.
    pub(super) fn curve(&self) -> Vec<ReliabilityPoint> {
        (0..CALIBRATION_BINS)
            .filter(|bin| self.counts[*bin] > 0)
            .map(|bin| ReliabilityPoint {
                confidence: self.confidence[bin] / self.counts[bin] as f64,
                accuracy: self.right[bin] as f64 / self.counts[bin] as f64,
                count: self.counts[bin],
            })
            .collect()
    }

    /// Expected calibration error: how far confidence and accuracy of a bin are apart, in the mean over all predictions
    /// (Naeini et al. 2015, <https://doi.org/10.1609/aaai.v29i1.9602>). 0 without predictions.
    pub(super) fn error(&self) -> f64 {
        let apart = |point: &ReliabilityPoint| point.count as f64 * (point.confidence - point.accuracy).abs();
        let count: u64 = self.counts.iter().sum();
        self.curve().iter().map(apart).sum::<f64>() / count.max(1) as f64
    }
}
