//! The probability from which on an image is taken for a class: which of all possible ones is the best, by a rule.

use crds::training::{DecisionThreshold, ThresholdBy};
use serde::{Deserialize, Serialize};

/// From which probability on an example is taken for a class, and what that gives on the examples it was chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Threshold {
    /// Least probability of the class for which an example is taken for it, 0 to 1.
    pub probability: f64,
    /// What it is the best by.
    pub by: ThresholdBy,
    /// Of the examples taken for the class, the share that is of it.
    pub precision: f64,
    /// Of the examples of the class, the share that is found.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// Youden's J: recall - share of the others that are taken for the class.
    pub youden: f64,
}

/// What is taken for the class from a probability on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) probability: f64,
    /// Examples of the class.
    pub(super) found: u64,
    /// Other examples.
    pub(super) mistaken: u64,
}

/// The best of `points`, of `positives` examples of the class and `negatives` others. Of equally good ones that which is
/// better in the other one of precision and recall, then that which is nearest to 0.5. Where no point satisfies the rule's
/// bound, that which comes nearest to it. `None` if either side is empty.
pub(super) fn best(
    points: impl Iterator<Item = Point>,
    positives: u64,
    negatives: u64,
    rule: &DecisionThreshold,
) -> Option<Threshold> {
    if positives == 0 || negatives == 0 {
        return None;
    }
    let figures = |point: Point| {
        let (found, mistaken) = (point.found as f64, point.mistaken as f64);
        Threshold {
            probability: point.probability,
            by: rule.by,
            precision: if point.found + point.mistaken == 0 { 0.0 } else { found / (found + mistaken) },
            recall: found / positives as f64,
            f1: 2.0 * found / (found + mistaken + positives as f64),
            // Of whole numbers, so that equally good points compare as equal.
            youden: (found * negatives as f64 - mistaken * positives as f64) / (positives as f64 * negatives as f64),
        }
    };
    // The bound that is to be kept, up to which it counts; the figure; what decides between equals.
    let rank = |threshold: &Threshold| -> [f64; 4] {
        let Threshold { precision, recall, f1, youden, probability, .. } = *threshold;
        let near = -(probability - 0.5).abs();
        match rule.by {
            ThresholdBy::Youden => [0.0, youden, 0.0, near],
            ThresholdBy::F1 => [0.0, f1, 0.0, near],
            ThresholdBy::Precision => [recall.min(rule.at_least), precision, recall, near],
            ThresholdBy::Recall => [precision.min(rule.at_least), recall, precision, near],
        }
    };
    points.map(figures).reduce(|best, other| if rank(&other) > rank(&best) { other } else { best })
}

/// The best threshold of exact probabilities: for each example that of the class, and whether it is of the class. Its
/// figures are those of the best point of scikit-learn's `precision_recall_curve`, where each distinct probability is a
/// threshold. All thresholds between two neighbouring probabilities decide alike about these examples: for others the one
/// nearest to 0.5 is taken, where scikit-learn names the upper end.
///
/// `None` if there is no example of the class, or no other one.
pub fn best_of(scores: &[(f32, bool)], rule: &DecisionThreshold) -> Option<Threshold> {
    let mut sorted: Vec<(f32, bool)> = scores.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let positives = scores.iter().filter(|(_, is_class)| *is_class).count() as u64;
    let groups: Vec<&[(f32, bool)]> = sorted.chunk_by(|a, b| a.0 == b.0).collect();
    let (mut found, mut mistaken) = (0, 0);
    let points = groups.iter().enumerate().map(|(index, group)| {
        let of_class = group.iter().filter(|(_, is_class)| *is_class).count() as u64;
        found += of_class;
        mistaken += group.len() as u64 - of_class;
        let highest = group[0].0;
        let lowest = groups.get(index + 1).map_or(0.0, |next| next[0].0.next_up());
        Point { probability: f64::from(0.5_f32.clamp(lowest, highest)), found, mistaken }
    });
    best(points, positives, scores.len() as u64 - positives, rule)
}
