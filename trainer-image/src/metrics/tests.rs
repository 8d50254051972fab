//! The figures against values worked out by hand and against scikit-learn's.

use crds::training::{DecisionThreshold, ThresholdBy};

use super::*;

/// `count` examples for `classes` classes from a linear congruential generator (glibc's constants), the same in Python:
///
/// ```text
/// def rows(n, k):
///     s = 12345
///     def draw(): nonlocal s; s = (s * 1103515245 + 12345) % 2**31; return s >> 16
///     for i in range(n):
///         v = [1 + draw() % 97 for _ in range(k)]; label = draw() % k
///         if i % 3: v[label] += 40
///         yield label, [a / sum(v) for a in v]
/// ```
fn rows(count: usize, classes: usize) -> Vec<(usize, Vec<f32>)> {
    let mut state: u64 = 12345;
    let mut draw = || {
        state = (state * 1_103_515_245 + 12345) % (1 << 31);
        state >> 16
    };
    (0..count)
        .map(|index| {
            let mut weights: Vec<u64> = (0..classes).map(|_| 1 + draw() % 97).collect();
            let label = draw() as usize % classes;
            weights[label] += if index % 3 == 0 { 0 } else { 40 };
            let total: u64 = weights.iter().sum();
            (label, weights.iter().map(|weight| (*weight as f64 / total as f64) as f32).collect())
        })
        .collect()
}

fn evaluate(rows: &[(usize, Vec<f32>)]) -> Evaluation {
    let mut evaluation = Evaluation::new(rows[0].1.len());
    for (label, probabilities) in rows {
        evaluation.add(*label, probabilities).unwrap();
    }
    evaluation
}

#[track_caller]
fn assert_near(found: impl IntoIterator<Item = f64>, expected: &[f64], tolerance: f64) {
    let found: Vec<f64> = found.into_iter().collect();
    let near = found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance);
    assert!(near, "{found:?} is not {expected:?} within {tolerance}");
}

/// Values of scikit-learn 1.9.1: `accuracy_score`, `f1_score(average="macro")`, `log_loss`, `precision_recall_fscore_support`,
/// `top_k_accuracy_score(k=5)` and `roc_auc_score(y == c, p[:, c])` of `rows(240, 7)`.
#[test]
fn seven_classes_give_what_scikit_learn_gives() {
    let evaluation = evaluate(&rows(240, 7));
    let summary = evaluation.summary().unwrap();
    assert_near(
        [summary.accuracy, summary.top5_accuracy.unwrap(), summary.macro_average.f1],
        &[0.4375, 0.9125, 0.4319149336687524],
        1e-12,
    );
    // The probabilities are f32 here and f64 there.
    assert_near([summary.loss], &[1.6720056397137948], 1e-7);
    let precision = [0.43902439024390244, 0.30303030303030304, 0.41304347826086957, 0.4444444444444444];
    let precision = [&precision[..], &[0.47058823529411764, 0.5714285714285714, 0.4166666666666667]].concat();
    assert_near(summary.classes.iter().map(|class| class.precision), &precision, 1e-12);
    let recall = [0.4864864864864865, 0.35714285714285715, 0.5588235294117647, 0.4444444444444444];
    let recall = [&recall[..], &[0.48484848484848486, 0.47619047619047616, 0.2564102564102564]].concat();
    assert_near(summary.classes.iter().map(|class| class.recall), &recall, 1e-12);
    let f1 = [0.46153846153846156, 0.32786885245901637, 0.475, 0.4444444444444444];
    let f1 = [&f1[..], &[0.47761194029850745, 0.5194805194805194, 0.31746031746031744]].concat();
    assert_near(summary.classes.iter().map(|class| class.f1), &f1, 1e-12);
    assert_eq!(summary.classes.iter().map(|class| class.support).collect::<Vec<_>>(), [37, 28, 34, 27, 33, 42, 39]);
    assert_eq!((0..7).map(|class| evaluation.confused(0, class)).collect::<Vec<_>>(), [18, 8, 2, 2, 2, 3, 2]);
    let auc = [0.7631473838370392, 0.6774764150943396, 0.7885494003426614, 0.7868196835332986];
    let auc = [&auc[..], &[0.7738252086078173, 0.7795214045214045, 0.7331930093124123]].concat();
    for (class, exact) in auc.iter().enumerate() {
        let curve = evaluation.curve(class);
        assert!(curve.auc_error() < 0.001, "class {class} is off by {} at most", curve.auc_error());
        assert_near([curve.auc().unwrap()], &[*exact], curve.auc_error());
    }
    assert_near([summary.macro_auc.unwrap()], &[auc.iter().sum::<f64>() / 7.0], 5e-4);
    let of = |class: usize| rows(240, 7).iter().map(|(label, row)| (row[class], *label == class)).collect();
    let scores: Vec<Scores> = (0..7).map(of).collect();
    let refined = summary.clone().refined(&scores, &DecisionThreshold::default());
    assert_near(refined.classes.iter().map(|class| class.auc.unwrap()), &auc, 1e-12);
    assert_near([refined.macro_auc.unwrap()], &[auc.iter().sum::<f64>() / 7.0], 1e-12);
    assert_eq!(refined.threshold, None);
    assert_eq!(summary.clone().refined(&[], &DecisionThreshold::default()), summary, "where they are not known");
}

/// Values of scikit-learn 1.9.1 for `rows(200, 2)`; J is the largest `tpr - fpr` of `roc_curve`, at 0.6068376068376068.
#[test]
fn two_classes_give_what_scikit_learn_gives_and_a_threshold() {
    let evaluation = evaluate(&rows(200, 2));
    let summary = evaluation.summary().unwrap();
    assert_near([summary.accuracy, summary.macro_average.f1], &[0.715, 0.7141352591589558], 1e-12);
    assert_near([summary.loss], &[0.5700321343840662], 1e-7);
    assert_eq!(summary.top5_accuracy, None);
    assert_near(summary.classes.iter().map(|class| class.auc.unwrap()), &[0.7960606060606061; 2], 5e-4);
    let threshold = summary.threshold.unwrap();
    assert_near([threshold.youden], &[0.49595959595959593], 1e-12);
    let rates = evaluation.curve(1).rates_at(threshold.probability).unwrap();
    assert_near([rates.true_positive_rate - rates.false_positive_rate], &[threshold.youden], 1e-12);
    // The threshold is the lower edge of the bin that the score is in, and a bin is 0.0005 wide there.
    assert_near([threshold.probability], &[0.6068376068376068], 0.0005);
}

/// Worked out by hand: two right (0 and 1), one 1 taken for 2; class 3 was neither seen nor predicted.
#[test]
fn a_class_without_examples_counts_neither_for_nor_against() {
    let evaluation =
        evaluate(&[(0, vec![0.5, 0.25, 0.25, 0.0]), (1, vec![0.0, 1.0, 0.0, 0.0]), (1, vec![0.0, 0.25, 0.75, 0.0])]);
    let summary = evaluation.summary().unwrap();
    assert_eq!(summary.count, 3);
    assert_near([summary.accuracy], &[2.0 / 3.0], 1e-15);
    assert_near([summary.loss], &[(2.0_f64.ln() + 4.0_f64.ln()) / 3.0], 1e-12);
    // F1 of class 0 is 1, of class 1 is 2/3, of class 2 (predicted, never right) 0; the mean is over these three.
    assert_near([summary.macro_average.f1], &[5.0 / 9.0], 1e-15);
    let none = ClassFigures {
        precision: 0.0,
        recall: 0.0,
        f1: 0.0,
        support: 0,
        auc: None,
        average_precision: None,
        threshold: None,
    };
    assert_eq!(summary.classes[3], none);
    assert_eq!(summary.confusions, [Confusion { label: 1, predicted: 2, count: 1 }]);
    assert_eq!(Evaluation::new(4).summary(), None);
}

#[test]
fn of_equally_probable_classes_the_first_is_predicted_and_ranks_first() {
    let evaluation = evaluate(&[(0, vec![0.125; 8]), (4, vec![0.125; 8]), (5, vec![0.125; 8])]);
    assert_eq!((evaluation.confused(0, 0), evaluation.confused(4, 0), evaluation.confused(5, 0)), (1, 1, 1));
    assert_near([evaluation.top5_accuracy().unwrap()], &[2.0 / 3.0], 1e-15);
}

#[test]
fn a_certain_mistake_costs_a_bounded_loss() {
    let evaluation = evaluate(&[(0, vec![0.0, 1.0])]);
    assert_near([evaluation.loss().unwrap()], &[15.942385152878742], 1e-12);
}

#[test]
fn classes_that_are_told_apart_have_an_area_of_one_and_the_threshold_in_the_middle() {
    let evaluation = evaluate(&[(0, vec![0.9, 0.1]), (0, vec![0.8, 0.2]), (1, vec![0.1, 0.9]), (1, vec![0.3, 0.7])]);
    let summary = evaluation.summary().unwrap();
    let by = ThresholdBy::Youden;
    let expected = Threshold { probability: 0.5, by, precision: 1.0, recall: 1.0, f1: 1.0, youden: 1.0 };
    assert_eq!(summary.threshold, Some(expected));
    let scores = [(0.1, false), (0.2, false), (0.9, true), (0.7, true)];
    assert_eq!(best_of(&scores, &DecisionThreshold::default()), Some(expected), "as exact probabilities have it");
    assert_eq!(summary.macro_auc, Some(1.0));
    let corner = |false_positive_rate, true_positive_rate| RocPoint { false_positive_rate, true_positive_rate };
    assert_eq!(evaluation.curve(1).roc(100), [corner(0.0, 0.0), corner(0.0, 1.0), corner(1.0, 1.0)]);
}

#[test]
fn a_threshold_by_precision_or_recall_keeps_the_other_above_its_bound_or_comes_nearest_to_it() {
    // By falling probability: right, right, wrong, right, wrong, wrong, right.
    let scores: Vec<(f32, bool)> = [true, true, false, true, false, false, true]
        .into_iter()
        .enumerate()
        .map(|(place, is_class)| (0.9 - place as f32 / 10.0, is_class))
        .collect();
    let table = [
        (ThresholdBy::Precision, 0.0, [1.0, 0.5]),
        (ThresholdBy::Precision, 0.6, [0.75, 0.75]),
        (ThresholdBy::Precision, 1.0, [4.0 / 7.0, 1.0]),
        (ThresholdBy::Recall, 0.0, [4.0 / 7.0, 1.0]),
        (ThresholdBy::Recall, 0.7, [0.75, 0.75]),
        (ThresholdBy::Recall, 1.0, [1.0, 0.5]),
        (ThresholdBy::F1, 0.0, [0.75, 0.75]),
        (ThresholdBy::Youden, 0.0, [1.0, 0.5]),
    ];
    for (by, at_least, expected) in table {
        let best = best_of(&scores, &DecisionThreshold { by, at_least }).unwrap();
        assert_eq!([best.precision, best.recall], expected, "{by:?} with the other at least {at_least}");
    }
    // The surest example is wrong: no threshold has a precision above 0.5.
    let rule = DecisionThreshold { by: ThresholdBy::Recall, at_least: 0.9 };
    let best = best_of(&[(0.9, false), (0.8, true), (0.1, false)], &rule).unwrap();
    assert_eq!([best.precision, best.recall], [0.5, 1.0]);
    assert_eq!(best_of(&[(0.9, true)], &rule), None);
}

#[test]
fn a_threshold_lies_where_it_decides_alike_about_all_and_is_nearest_to_the_middle() {
    let threshold = |scores: &[(f32, bool)]| best_of(scores, &DecisionThreshold::default()).unwrap().probability;
    assert_eq!(threshold(&[(0.9, true), (0.1, false)]), 0.5);
    assert_eq!(threshold(&[(0.4, true), (0.1, false)]), f64::from(0.4_f32));
    let lowest = threshold(&[(0.9, true), (0.7, false)]);
    assert!(lowest > f64::from(0.7_f32) && lowest < 0.700_001, "{lowest}");
}

#[test]
fn a_model_that_is_as_often_right_as_it_is_sure_has_no_calibration_error() {
    let mut evaluation = Evaluation::new(2);
    (0..4).for_each(|place| evaluation.add(usize::from(place == 0), &[0.75, 0.25]).unwrap());
    let point = ReliabilityPoint { confidence: 0.75, accuracy: 0.75, count: 4 };
    assert_eq!((evaluation.calibration_error(), evaluation.reliability()), (Some(0.0), vec![point]));
    // (3 * 0.25^2 + 0.75^2) / 4: the score of the second class's probability.
    assert_eq!(evaluation.brier_score(), Some(0.1875));
    evaluation.add(1, &[1.0, 0.0]).unwrap();
    assert_near([evaluation.calibration_error().unwrap()], &[0.2], 1e-15);
}

#[test]
fn probabilities_that_a_saturated_softmax_crowds_at_one_are_still_ranked() {
    let almost = 1.0 - 2.0_f32.powi(-20);
    let surer = 1.0 - 2.0_f32.powi(-24);
    let evaluation = evaluate(&[(0, vec![1.0 - almost, almost]), (1, vec![1.0 - surer, surer])]);
    assert_eq!(evaluation.curve(1).auc(), Some(1.0));
}

#[test]
fn a_roc_curve_is_bounded_keeps_its_ends_and_never_falls() {
    let curve = evaluate(&rows(4000, 2)).curve(1).clone();
    for limit in [0, 2, 3, 50, 100_000] {
        let points = curve.roc(limit);
        assert!(points.len() <= limit.max(2), "{} points of {limit}", points.len());
        let ends = [points[0], points[points.len() - 1]].map(|end| (end.false_positive_rate, end.true_positive_rate));
        assert_eq!(ends, [(0.0, 0.0), (1.0, 1.0)]);
        assert!(points.windows(2).all(|pair| pair[0].false_positive_rate <= pair[1].false_positive_rate
            && pair[0].true_positive_rate <= pair[1].true_positive_rate));
    }
}

#[test]
fn ranks_that_count_apart_and_merge_count_as_one() {
    let rows = rows(101, 7);
    let whole = evaluate(&rows);
    let (left, right) = (evaluate(&rows[..40]), evaluate(&rows[40..]));
    let mut merged = left.clone();
    merged.merge(&right).unwrap();
    let sums: Vec<f64> = left.sums().iter().zip(right.sums()).map(|(a, b)| a + b).collect();
    let summed = Evaluation::from_sums(7, &sums).unwrap();
    assert_eq!(merged, summed);
    assert_near(summed.sums(), &whole.sums(), 1e-12);
    let text = serde_json::to_string(&merged).unwrap();
    // A sum that is no whole number may differ in its last bit once it was text.
    assert_near(serde_json::from_str::<Evaluation>(&text).unwrap().sums(), &merged.sums(), 1e-12);
    assert!(text.len() < 30_000, "{} bytes: zeros are not written", text.len());
    assert_eq!(
        merged.merge(&Evaluation::new(3)).unwrap_err().to_string(),
        "the model gave 3 probabilities for 7 classes: it was made for other data"
    );
    assert!(Evaluation::from_sums(8, &sums).is_err());
}

#[test]
fn what_is_no_prediction_is_refused_and_not_counted() {
    let cases: [(usize, &[f32], &str); 5] = [
        (2, &[0.5, 0.5], "label 2 is not one of the 2 classes (0 to 1)"),
        (0, &[1.0], "the model gave 1 probabilities for 2 classes"),
        (0, &[f32::NAN, 0.5], "class 0 the probability NaN"),
        (0, &[0.5, -0.1], "class 1 the probability -0.1"),
        (0, &[3.5, 0.1], "no softmax was taken"),
    ];
    let mut evaluation = Evaluation::new(2);
    for (label, probabilities, message) in cases {
        let error = evaluation.add(label, probabilities).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert_eq!(evaluation, Evaluation::new(2));
}

#[test]
fn the_most_wrong_are_kept_whatever_the_order_of_the_ranks() {
    let offered = |range: std::ops::Range<usize>| {
        let mut worst = Worst::new(3);
        for index in range {
            let sure = 0.5 + (index % 7) as f32 / 20.0;
            worst.offer(index % 2, &[sure, 1.0 - sure], || format!("{index:02}.png"));
        }
        worst
    };
    let (mut forward, mut backward) = (offered(0..20), offered(20..40));
    let (first, second) = (forward.clone(), backward.clone());
    forward.merge(second);
    backward.merge(first);
    assert_eq!(forward, backward);
    assert_eq!(forward, offered(0..40));
    let names: Vec<&str> = forward.predictions().iter().map(|wrong| wrong.name.as_str()).collect();
    assert_eq!(names, ["13.png", "27.png", "05.png"]);
    assert!(forward.predictions().iter().all(|wrong| wrong.label == 1 && wrong.predicted == 0));
    let mut none = Worst::new(0);
    none.offer(0, &[0.0, 1.0], || unreachable!("nothing is kept"));
    assert!(none.predictions().is_empty());
}

#[test]
fn epochs_trained_again_after_a_resume_replace_the_old_ones() {
    let epoch = |epoch, validation_accuracy| Epoch { epoch, validation_accuracy, seconds: 2.0, ..Epoch::default() };
    let mut history = History::default();
    for (number, accuracy) in [(1, 0.5), (2, 0.9), (3, 0.8), (2, 0.7), (3, 0.7)] {
        history.push(epoch(number, Some(accuracy)));
    }
    assert_eq!(history.epochs.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(history.best().map(|best| best.epoch), Some(2));
    assert_eq!(history.seconds(), 6.0);
    let text = serde_json::to_string(&history).unwrap();
    assert!(
        text.starts_with(
            r#"{"epochs":[{"epoch":1,"steps":0,"learningRate":0.0,"trainLoss":0.0,"validationAccuracy":0.5"#
        )
    );
    assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
}
