//! The figures of one class against the rest from all of its probabilities, without bins: what scikit-learn computes, where there
//! is room for them.

use std::cmp::Reverse;

use crds::training::DecisionThreshold;

use super::summary::{Summary, mean};
use super::threshold::best_of;

/// Of each example that was seen: the probability of a class, and whether it is of it.
pub type Scores = Vec<(f32, bool)>;

/// Area under the ROC curve, as scikit-learn's `roc_auc_score`, and average precision, as its `average_precision_score`. Equal
/// probabilities count as tied. `None` as for a [`Curve`](super::Curve).
pub fn areas(scores: &[(f32, bool)]) -> (Option<f64>, Option<f64>) {
    let mut sorted = scores.to_vec();
    sorted.sort_by_key(|(probability, _)| Reverse(probability.to_bits()));
    let (mut found, mut mistaken) = (0_u64, 0_u64);
    let (mut losses, mut precisions) = (0.0, 0.0);
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        let of_class = tied.iter().filter(|(_, is_class)| *is_class).count() as u64;
        let others = tied.len() as u64 - of_class;
        // An example of the class loses against those that were counted before it, and half against those tied with it.
        losses += of_class as f64 * (mistaken as f64 + others as f64 / 2.0);
        (found, mistaken) = (found + of_class, mistaken + others);
        precisions += of_class as f64 * (found as f64 / (found + mistaken) as f64);
    }
    let pairs = found as f64 * mistaken as f64;
    ((pairs > 0.0).then(|| (pairs - losses) / pairs), (found > 0).then(|| precisions / found as f64))
}

impl Summary {
    /// The same with areas and thresholds of all probabilities in place of those of bins, for the classes whose `scores` are
    /// known: each in its place, empty where they are not.
    pub fn refined(mut self, scores: &[Scores], rule: &DecisionThreshold) -> Summary {
        for (class, scores) in self.classes.iter_mut().zip(scores).filter(|(_, scores)| !scores.is_empty()) {
            (class.auc, class.average_precision) = areas(scores);
            class.threshold = best_of(scores, rule);
        }
        self.macro_auc = mean(self.classes.iter().filter_map(|class| class.auc));
        self.macro_average_precision = mean(self.classes.iter().filter_map(|class| class.average_precision));
        if self.threshold.is_some() {
            self.threshold = self.classes.get(1).and_then(|class| class.threshold);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand, and values of scikit-learn.
    #[test]
    fn areas_are_those_of_all_pairs_and_ties_count_half() {
        let scores = [(0.9, true), (0.8, false), (0.7, true), (0.7, false), (0.1, false)];
        // Of 6 pairs: 0.9 wins 3, 0.7 wins 1 and ties 1. Precision 1 at 0.9, 2 of 4 at 0.7.
        assert_eq!(areas(&scores), (Some(4.5 / 6.0), Some(0.75)));
        let close = [(0.500_000_1, true), (0.5, false)];
        assert_eq!(areas(&close), (Some(1.0), Some(1.0)), "however near to each other");
        assert_eq!(areas(&[(0.5, true)]), (None, Some(1.0)));
        assert_eq!(areas(&[(0.5, false)]), (None, None));
        assert_eq!(areas(&[]), (None, None));
    }
}
