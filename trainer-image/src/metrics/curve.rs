//! How well one class is told from all others at every threshold: two histograms of the class's probability, which add
//! up across ranks, and what follows from them (ROC, the area under it, average precision, the best threshold).

use crds::training::DecisionThreshold;
use serde::{Deserialize, Serialize};

use super::threshold::{self, Point, Threshold};

/// Probabilities are binned by their logit between plus and minus this: an `f32` can't be nearer to 1 than 2^-24, whose
/// logit is 16.6. Even steps of the logit keep apart what a saturated softmax crowds at 0 and 1.
const LOGIT_RANGE: f64 = 17.0;
/// Bins of all classes together, which bounds the memory: 8 MiB.
const CELLS: usize = 1 << 19;
/// Most bins of a class; at 0.5 one is 0.0005 wide.
const MOST_BINS: usize = 16384;
/// Fewest bins of a class.
const FEWEST_BINS: usize = 32;

/// A point of a ROC curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RocPoint {
    /// Share of the others that are taken for the class, 0 to 1.
    pub false_positive_rate: f64,
    /// Share of the class that is found, 0 to 1.
    pub true_positive_rate: f64,
}

/// Examples of a class and of the others, counted by the probability that the model gave the class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Curve {
    /// Examples of the class in each bin, by rising probability.
    #[serde(with = "super::sparse")]
    pub(super) positives: Vec<u64>,
    /// Examples of other classes in each bin.
    #[serde(with = "super::sparse")]
    pub(super) negatives: Vec<u64>,
}

impl Curve {
    /// An empty pair of histograms for one of `classes` classes. The number of bins is even, so that 0.5 is an edge.
    pub(super) fn new(classes: usize) -> Self {
        let bins = Self::bins(classes);
        Self { positives: vec![0; bins], negatives: vec![0; bins] }
    }

    /// Bins of each class when there are `classes`.
    pub(super) fn bins(classes: usize) -> usize {
        (CELLS / classes.max(1)).clamp(FEWEST_BINS, MOST_BINS) / 2 * 2
    }

    /// Counts one example whose class has the probability `probability`.
    pub(super) fn add(&mut self, probability: f32, is_class: bool) {
        let bins = self.positives.len();
        let probability = f64::from(probability);
        let logit = (probability / (1.0 - probability)).ln().clamp(-LOGIT_RANGE, LOGIT_RANGE);
        // A cast of a float saturates, and the upper end belongs to the last bin.
        let bin = (((logit / LOGIT_RANGE + 1.0) / 2.0 * bins as f64) as usize).min(bins - 1);
        let side = if is_class { &mut self.positives } else { &mut self.negatives };
        side[bin] += 1;
    }

    /// The probability at the lower edge of a bin.
    fn edge(&self, bin: usize) -> f64 {
        let logit = (bin as f64 / self.positives.len() as f64 * 2.0 - 1.0) * LOGIT_RANGE;
        1.0 / (1.0 + (-logit).exp())
    }

    /// Examples of the class, and of the others.
    fn totals(&self) -> (u64, u64) {
        (self.positives.iter().sum(), self.negatives.iter().sum())
    }

    /// Area under the ROC curve, one against the rest: the chance that an example of the class has a higher probability
    /// than another one, ties counted half (Hanley and McNeil 1982, <https://doi.org/10.1148/radiology.143.1.7063747>).
    /// Two examples in one bin count as tied, which errs by [`auc_error`](Self::auc_error) at most. `None` if either side is empty.
    pub fn auc(&self) -> Option<f64> {
        let (positives, negatives) = self.totals();
        let mut below = 0;
        let mut wins = 0.0;
        for (positive, negative) in self.positives.iter().zip(&self.negatives) {
            wins += *positive as f64 * (below as f64 + *negative as f64 / 2.0);
            below += negative;
        }
        (positives > 0 && negatives > 0).then(|| wins / (positives as f64 * negatives as f64))
    }

    /// The most by which [`auc`](Self::auc) can differ from the area under the curve without bins: half the pairs that share a bin.
    pub fn auc_error(&self) -> f64 {
        let (positives, negatives) = self.totals();
        let shared: f64 = self.positives.iter().zip(&self.negatives).map(|(p, n)| *p as f64 * *n as f64).sum();
        shared / 2.0 / (positives as f64 * negatives as f64).max(1.0)
    }

    /// The ROC curve from (0, 0) to (1, 1) in at most `limit` points (at least 2). Points on a straight line between their
    /// neighbours are left out, then those that are nearest to one already taken. Empty if the class or the rest is.
    pub fn roc(&self, limit: usize) -> Vec<RocPoint> {
        let (positives, negatives) = self.totals();
        if positives == 0 || negatives == 0 {
            return Vec::new();
        }
        let mut corners: Vec<(u64, u64)> = vec![(0, 0)];
        let (mut found, mut mistaken) = (0, 0);
        for (positive, negative) in self.positives.iter().zip(&self.negatives).rev() {
            if positive + negative == 0 {
                continue;
            }
            (found, mistaken) = (found + positive, mistaken + negative);
            if let [.., a, b] = corners[..] {
                let straight = u128::from(b.0 - a.0) * u128::from(found - b.1)
                    == u128::from(mistaken - b.0) * u128::from(b.1 - a.1);
                if straight {
                    corners.pop();
                }
            }
            corners.push((mistaken, found));
        }
        let points: Vec<RocPoint> = corners
            .into_iter()
            .map(|(mistaken, found)| RocPoint {
                false_positive_rate: mistaken as f64 / negatives as f64,
                true_positive_rate: found as f64 / positives as f64,
            })
            .collect();
        thin(points, limit.max(2))
    }

    /// Average precision: the mean over the examples of the class of the precision at their probability, as scikit-learn's
    /// `average_precision_score`: the sum of precision times the step in recall. Examples in one bin count as tied, which
    /// errs by [`average_precision_error`](Self::average_precision_error) at most. `None` without examples of the class.
    pub fn average_precision(&self) -> Option<f64> {
        let positives = self.totals().0;
        let sum: f64 = self
            .points()
            .zip(self.positives.iter().rev())
            .map(|(point, positive)| *positive as f64 * share(point.found, point.found + point.mistaken))
            .sum();
        (positives > 0).then(|| sum / positives as f64)
    }

    /// The most by which [`average_precision`](Self::average_precision) can differ from the figure without bins. The
    /// i-th example of the class in a bin, after `T` of the class and `F` others in the bins above, has a precision of at
    /// least (T + i) / (T + i + F + n), with all `n` others of its bin before it, and at most (T + p) / (T + p + F), tied with
    /// all `p` and none of the others before.
    pub fn average_precision_error(&self) -> f64 {
        let (mut least, mut most, mut value) = (0.0, 0.0, 0.0);
        let (mut above, mut others) = (0, 0);
        for (positive, negative) in self.positives.iter().zip(&self.negatives).rev() {
            let reached = above + positive;
            least += (above + 1..=reached).map(|found| share(found, found + others + negative)).sum::<f64>();
            most += *positive as f64 * share(reached, reached + others);
            value += *positive as f64 * share(reached, reached + others + negative);
            (above, others) = (reached, others + negative);
        }
        f64::max(most - value, value - least) / above.max(1) as f64
    }

    /// The threshold that is the best by a rule, among the lower edges of the bins: 0.0005 apart around 0.5 with two
    /// classes. Of equally good thresholds the one nearest to 0.5 is taken. `None` if either side is empty.
    pub fn best_threshold(&self, rule: &DecisionThreshold) -> Option<Threshold> {
        let (positives, negatives) = self.totals();
        threshold::best(self.points(), positives, negatives, rule)
    }

    /// What is taken for the class from the lower edge of each bin on, by falling probability.
    fn points(&self) -> impl Iterator<Item = Point> {
        let (mut found, mut mistaken) = (0, 0);
        (0..self.positives.len()).rev().map(move |bin| {
            found += self.positives[bin];
            mistaken += self.negatives[bin];
            Point { probability: self.edge(bin), found, mistaken }
        })
    }

    /// The point of the ROC curve for a threshold: what has at least this probability is taken for the class. Exact for a
    /// [`best_threshold`](Self::best_threshold); elsewhere the whole bin counts. `None` if either side is empty.
    pub fn rates_at(&self, probability: f64) -> Option<RocPoint> {
        let (positives, negatives) = self.totals();
        let from = (0..self.positives.len()).find(|bin| self.edge(*bin) >= probability).unwrap_or(self.positives.len());
        let rate = |counts: &[u64], total: u64| share(counts[from..].iter().sum(), total);
        (positives > 0 && negatives > 0).then(|| RocPoint {
            false_positive_rate: rate(&self.negatives, negatives),
            true_positive_rate: rate(&self.positives, positives),
        })
    }

    /// Adds the counts of another rank. Both have as many bins.
    pub(super) fn merge(&mut self, other: &Self) {
        let ours = self.positives.iter_mut().chain(&mut self.negatives);
        for (mine, theirs) in ours.zip(other.positives.iter().chain(&other.negatives)) {
            *mine += theirs;
        }
    }
}

/// A share of a whole; 0 of nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// At most `limit` of the points, evenly spread along the curve, with both ends. The length of a ROC curve, taken along
/// the axes, is 2.
fn thin(points: Vec<RocPoint>, limit: usize) -> Vec<RocPoint> {
    if points.len() <= limit {
        return points;
    }
    let last = points.len() - 1;
    let mut taken = 0;
    let along = |point: &RocPoint| point.false_positive_rate + point.true_positive_rate;
    points
        .into_iter()
        .enumerate()
        .filter(|(index, point)| {
            let due = taken < limit - 1 && along(point) >= 2.0 * taken as f64 / (limit - 1) as f64;
            taken += usize::from(due);
            due || *index == last
        })
        .map(|(_, point)| point)
        .collect()
}
