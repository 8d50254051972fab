//! What has changed since a model was trained: its figures then and now, and the shares of the classes. Pure.

use crds::evaluation::{ClassShift, Drift, EvaluationFigures, SHIFTS};

use crate::metrics::Summary;

/// Least share that the index counts with: a class without an example would make it infinite.
const LEAST_SHARE: f64 = 1e-4;
/// From which index on shares have moved, and have moved very much: the usual reading (Siddiqi 2006, Credit Risk
/// Scorecards, chapter 9).
const MOVED: [f64; 2] = [0.1, 0.25];

/// The figures of the history.
pub(super) fn figures(summary: &Summary) -> EvaluationFigures {
    EvaluationFigures {
        count: summary.count,
        accuracy: summary.accuracy,
        macro_f1: summary.macro_average.f1,
        loss: summary.loss,
        calibration_error: summary.calibration_error,
        brier_score: summary.brier_score,
        macro_auc: summary.macro_auc,
    }
}

/// How a model's figures differ from those at its training, both over the classes of these names.
pub(super) fn drift(training: &Summary, now: &Summary, names: &[String]) -> Drift {
    let (before, after) = (predicted(training), predicted(now));
    let mut classes: Vec<ClassShift> = names
        .iter()
        .zip(before.iter().zip(&after))
        .map(|(class, (before, after))| ClassShift { class: class.clone(), at_training: *before, now: *after })
        .collect();
    let change = |shift: &ClassShift| (shift.now - shift.at_training).abs();
    classes.sort_by(|a, b| change(b).total_cmp(&change(a)));
    classes.truncate(SHIFTS);
    Drift {
        at_training: figures(training),
        accuracy: now.accuracy - training.accuracy,
        macro_f1: now.macro_average.f1 - training.macro_average.f1,
        loss: now.loss - training.loss,
        calibration_error: now.calibration_error - training.calibration_error,
        prediction_shift: stability_index(&before, &after),
        label_shift: stability_index(&labelled(training), &labelled(now)),
        classes,
    }
}

/// The index as a word.
pub(super) fn reading(index: f64) -> &'static str {
    match index {
        index if index < MOVED[0] => "stable",
        index if index < MOVED[1] => "moved",
        _ => "moved very much",
    }
}

/// Population stability index of two lists of shares: the sum of `(now - before) · ln(now / before)` (Siddiqi 2006), which
/// is the symmetric relative entropy of both.
fn stability_index(before: &[f64], now: &[f64]) -> f64 {
    let term = |(before, now): (&f64, &f64)| {
        let (before, now) = (before.max(LEAST_SHARE), now.max(LEAST_SHARE));
        (now - before) * (now / before).ln()
    };
    before.iter().zip(now).map(term).sum()
}

/// The share of each class among the labels.
fn labelled(summary: &Summary) -> Vec<f64> {
    shares(summary.classes.iter().map(|class| class.support as f64).collect())
}

/// The share of each class among the predictions. A summary has their counts as what they are divided by: of a class that
/// was recognised at least once by its precision, of another by its part in the confusions.
fn predicted(summary: &Summary) -> Vec<f64> {
    let count = |(index, class): (usize, &crate::metrics::ClassFigures)| {
        if class.precision > 0.0 {
            return (class.recall * class.support as f64 / class.precision).round();
        }
        let confused = summary.confusions.iter().filter(|confusion| confusion.predicted == index);
        confused.map(|confusion| confusion.count as f64).sum()
    };
    shares(summary.classes.iter().enumerate().map(count).collect())
}

fn shares(counts: Vec<f64>) -> Vec<f64> {
    let whole: f64 = counts.iter().sum::<f64>().max(1.0);
    counts.into_iter().map(|count| count / whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Evaluation;

    /// An evaluation of examples given as (label, prediction), each with the probability 0.9.
    fn summary(examples: &[(usize, usize)]) -> Summary {
        let mut evaluation = Evaluation::new(3);
        for (label, predicted) in examples {
            let mut row = [0.05; 3];
            row[*predicted] = 0.9;
            evaluation.add(*label, &row).unwrap();
        }
        evaluation.summary().unwrap()
    }

    #[test]
    fn the_shares_of_predictions_are_found_in_a_summary() {
        // Class 2 is predicted once and never rightly.
        let shares = predicted(&summary(&[(0, 0), (0, 1), (1, 1), (1, 1), (2, 0), (0, 2), (1, 0), (2, 1)]));
        assert_eq!(shares, [3.0 / 8.0, 4.0 / 8.0, 1.0 / 8.0]);
    }

    #[test]
    fn nothing_has_drifted_on_the_same_images() {
        let same = summary(&[(0, 0), (1, 1), (2, 1), (2, 2)]);
        let drift = drift(&same, &same, &["a".into(), "b".into(), "c".into()]);
        let differences = [drift.accuracy, drift.macro_f1, drift.loss, drift.calibration_error];
        assert_eq!(differences, [0.0; 4]);
        assert_eq!((drift.prediction_shift, drift.label_shift), (0.0, 0.0));
        assert_eq!(reading(drift.prediction_shift), "stable");
    }

    #[test]
    fn a_class_that_comes_more_often_is_named_first() {
        let before = summary(&[(0, 0), (0, 0), (1, 1), (1, 1), (2, 2)]);
        let now = summary(&[(0, 0), (2, 2), (2, 2), (2, 2), (1, 2)]);
        let drift = drift(&before, &now, &["a".into(), "b".into(), "c".into()]);
        let first = ClassShift { class: "c".into(), at_training: 0.2, now: 0.8 };
        assert_eq!(drift.classes[0], first);
        // 0.4 to 0.2, 0.4 to none, which counts as 0.0001, and 0.2 to 0.8.
        let terms = [-0.2 * 0.5_f64.ln(), (1e-4 - 0.4) * (1e-4 / 0.4_f64).ln(), 0.6 * 4.0_f64.ln()];
        assert!((drift.prediction_shift - terms.iter().sum::<f64>()).abs() < 1e-9, "{}", drift.prediction_shift);
        assert_eq!(reading(drift.prediction_shift), "moved very much");
        assert!((drift.accuracy + 0.2).abs() < 1e-12, "{}", drift.accuracy);
        assert_eq!([0.0, 0.1, 0.2499, 0.25].map(reading), ["stable", "moved", "moved", "moved very much"]);
    }
}
