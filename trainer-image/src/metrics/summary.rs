//! The figures that follow from the counts: what a person reads, what `metrics.json` keeps, what a later model is
//! compared with.

use crds::training::DecisionThreshold;
use serde::{Deserialize, Serialize};

use super::calibration::ReliabilityPoint;
use super::evaluation::Evaluation;
use super::threshold::Threshold;

/// Most confused pairs that a summary keeps; with 1,000 classes there may be a million.
const CONFUSIONS: usize = 100;

/// How well one class is recognised. With no example to divide by a figure is 0, as scikit-learn's `zero_division=0`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassFigures {
    /// Of the examples taken for the class, the share that is of it: TP / (TP + FP).
    pub precision: f64,
    /// Of the examples of the class, the share that was found: TP / (TP + FN).
    pub recall: f64,
    /// Harmonic mean of both: 2 TP / (2 TP + FP + FN).
    pub f1: f64,
    /// Examples of the class.
    pub support: u64,
    /// Area under the ROC curve, one against the rest; none if all examples or none are of the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auc: Option<f64>,
    /// Average precision, one against the rest; none without examples of the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_precision: Option<f64>,
    /// The best threshold for the question whether an example is of this class or not, one against the rest; none as `auc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
}

/// Means of the classes' figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Averages {
    /// Of the precisions.
    pub precision: f64,
    /// Of the recalls.
    pub recall: f64,
    /// Of the F1s.
    pub f1: f64,
}

/// Examples of one class taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Confusion {
    /// Index of the true class.
    pub label: usize,
    /// Index of the class they were taken for.
    pub predicted: usize,
    /// How many.
    pub count: u64,
}

/// The figures of an [`Evaluation`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Examples.
    pub count: u64,
    /// Share whose most probable class is the label.
    pub accuracy: f64,
    /// Share whose label is among the five most probable classes; left out with five classes or fewer, where it is always 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top5_accuracy: Option<f64>,
    /// Mean negative log-likelihood, in nats.
    pub loss: f64,
    /// Mean over the classes that were seen: those with an example or a prediction (scikit-learn's `average="macro"`).
    pub macro_average: Averages,
    /// Mean over the examples: each class counts as often as it has some (scikit-learn's `average="weighted"`).
    pub weighted_average: Averages,
    /// Mean area under the ROC curves of the classes that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macro_auc: Option<f64>,
    /// Mean average precision of the classes that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macro_average_precision: Option<f64>,
    /// Mean squared difference between probabilities and truth, over all classes; halved for two classes.
    pub brier_score: f64,
    /// How far apart confidence and accuracy are: the expected calibration error, over 15 bins of equal width.
    pub calibration_error: f64,
    /// Confidence and accuracy in each of these bins that has an example.
    pub reliability: Vec<ReliabilityPoint>,
    /// Decision threshold for the second of two classes; only with two classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
    /// Figures of each class, in the order of the classes.
    pub classes: Vec<ClassFigures>,
    /// Classes taken for others, the most frequent first, then by label and prediction; at most 100.
    pub confusions: Vec<Confusion>,
}

impl Evaluation {
    /// The figures, with thresholds by Youden's J; `None` without examples.
    pub fn summary(&self) -> Option<Summary> {
        self.summary_by(&DecisionThreshold::default())
    }

    /// The figures, with thresholds that are the best by `rule`; `None` without examples.
    pub fn summary_by(&self, rule: &DecisionThreshold) -> Option<Summary> {
        let size = self.classes();
        // One pass by rows for the sums of the columns: a column at a time would miss the cache with 1,000 classes.
        let mut predictions = vec![0; size];
        let mut confusions = Vec::new();
        for label in 0..size {
            for (predicted, predictions) in predictions.iter_mut().enumerate() {
                let count = self.confused(label, predicted);
                *predictions += count;
                if count > 0 && label != predicted {
                    confusions.push(Confusion { label, predicted, count });
                }
            }
        }
        confusions.sort_by_key(|confusion| std::cmp::Reverse(confusion.count));
        confusions.truncate(CONFUSIONS);

        let classes: Vec<ClassFigures> = (0..size)
            .map(|class| {
                let right = self.confused(class, class);
                let support = (0..size).map(|predicted| self.confused(class, predicted)).sum();
                ClassFigures {
                    precision: ratio(right, predictions[class]),
                    recall: ratio(right, support),
                    f1: ratio(2 * right, support + predictions[class]),
                    support,
                    auc: self.curve(class).auc(),
                    average_precision: self.curve(class).average_precision(),
                    threshold: self.curve(class).best_threshold(rule),
                }
            })
            .collect();
        let seen = |class: usize| f64::from(classes[class].support + predictions[class] > 0);
        Some(Summary {
            count: self.count(),
            accuracy: self.accuracy()?,
            top5_accuracy: self.top5_accuracy().filter(|_| size > 5),
            loss: self.loss()?,
            macro_average: average(&classes, seen),
            weighted_average: average(&classes, |class| classes[class].support as f64),
            macro_auc: mean(classes.iter().filter_map(|class| class.auc)),
            macro_average_precision: mean(classes.iter().filter_map(|class| class.average_precision)),
            brier_score: self.brier_score()?,
            calibration_error: self.calibration_error()?,
            reliability: self.reliability(),
            threshold: classes.get(1).filter(|_| size == 2).and_then(|class| class.threshold),
            classes,
            confusions,
        })
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn average(classes: &[ClassFigures], weight: impl Fn(usize) -> f64) -> Averages {
    let whole: f64 = (0..classes.len()).map(&weight).sum();
    let of = |figure: &dyn Fn(&ClassFigures) -> f64| {
        classes.iter().enumerate().map(|(class, figures)| weight(class) * figure(figures)).sum::<f64>() / whole.max(1.0)
    };
    Averages { precision: of(&|class| class.precision), recall: of(&|class| class.recall), f1: of(&|class| class.f1) }
}

pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}
