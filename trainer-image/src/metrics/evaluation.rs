//! Counting predictions against labels: everything a judgement needs, as sums that add up over batches and ranks.

use serde::{Deserialize, Serialize};

use super::calibration::{Calibration, ReliabilityPoint};
use super::curve::Curve;

/// Probabilities are clipped here before their logarithm is taken, as scikit-learn's `log_loss` does for `f32`: a single
/// example can't make the mean infinite.
const LEAST_PROBABILITY: f64 = f32::EPSILON as f64;
/// Rounding (bf16's is 2^-8) may lift a probability above 1 by this.
const ROUNDING: f32 = 1.0 / 256.0;

/// What can't be counted.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum MetricsError {
    /// The label is not a class.
    #[error("label {label} is not one of the {classes} classes (0 to {})", classes.saturating_sub(1))]
    Label {
        /// The label.
        label: usize,
        /// Number of classes.
        classes: usize,
    },
    /// There are more or fewer probabilities than classes.
    #[error("the model gave {given} probabilities for {classes} classes: it was made for other data")]
    Classes {
        /// Number of probabilities.
        given: usize,
        /// Number of classes.
        classes: usize,
    },
    /// A value is not a probability.
    #[error(
        "the model gave class {class} the probability {value}: the weights or the input are not finite, or no softmax was taken"
    )]
    Probability {
        /// Index of the class.
        class: usize,
        /// The value.
        value: f32,
    },
}

/// Predictions counted against labels. Start one for each rank, [`add`](Self::add) each example once, then
/// [`merge`](Self::merge) them, or add up their [`sums`](Self::sums) by a collective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    classes: usize,
    /// Examples by label (row) and prediction (column), row by row.
    #[serde(with = "super::sparse")]
    confusion: Vec<u64>,
    /// Examples whose label is among the five most probable classes.
    top5: u64,
    /// Sum of the negative log-likelihoods, in nats.
    loss: f64,
    /// Sum over examples and classes of the squared differences between probability and truth.
    squares: f64,
    calibration: Calibration,
    /// Histograms of each class against the rest.
    curves: Vec<Curve>,
}

impl Evaluation {
    /// Nothing counted yet, for `classes` classes. Takes `8 * classes^2` bytes and at most 8 MiB more up to 16,384 classes.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            confusion: vec![0; classes * classes],
            top5: 0,
            loss: 0.0,
            squares: 0.0,
            calibration: Calibration::new(),
            curves: vec![Curve::new(classes); classes],
        }
    }

    /// Counts one example: the index of its true class and the probability of each class. The prediction is the most
    /// probable class, the first of equals.
    ///
    /// # Errors
    /// If the label or the number of probabilities does not fit, or a value is not between 0 and 1. Nothing is counted then.
    pub fn add(&mut self, label: usize, probabilities: &[f32]) -> Result<(), MetricsError> {
        let classes = self.classes;
        if probabilities.len() != classes {
            return Err(MetricsError::Classes { given: probabilities.len(), classes });
        }
        if label >= classes {
            return Err(MetricsError::Label { label, classes });
        }
        if let Some((class, value)) =
            probabilities.iter().enumerate().find(|(_, value)| !(0.0..=1.0 + ROUNDING).contains(*value))
        {
            return Err(MetricsError::Probability { class, value: *value });
        }
        let own = probabilities[label];
        let ahead = |(class, value): (usize, &f32)| *value > own || (*value == own && class < label);
        let rank = probabilities.iter().enumerate().filter(|pair| ahead(*pair)).count();
        let predicted = probabilities
            .iter()
            .enumerate()
            .fold(0, |best, (class, value)| if *value > probabilities[best] { class } else { best });
        self.confusion[label * classes + predicted] += 1;
        self.top5 += u64::from(rank < 5);
        self.loss -= f64::from(own).clamp(LEAST_PROBABILITY, 1.0).ln();
        self.calibration.add(f64::from(probabilities[predicted].min(1.0)), predicted == label);
        for (class, (curve, value)) in self.curves.iter_mut().zip(probabilities).enumerate() {
            let value = value.min(1.0);
            let truth = if class == label { 1.0 } else { 0.0 };
            self.squares += (f64::from(value) - truth).powi(2);
            curve.add(value, class == label);
        }
        Ok(())
    }

    /// Adds what another rank counted.
    ///
    /// # Errors
    /// If the other has another number of classes. Nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), MetricsError> {
        if other.classes != self.classes {
            return Err(MetricsError::Classes { given: other.classes, classes: self.classes });
        }
        for (mine, theirs) in self.confusion.iter_mut().zip(&other.confusion) {
            *mine += theirs;
        }
        self.top5 += other.top5;
        self.loss += other.loss;
        self.squares += other.squares;
        self.calibration.merge(&other.calibration);
        for (mine, theirs) in self.curves.iter_mut().zip(&other.curves) {
            mine.merge(theirs);
        }
        Ok(())
    }

    /// Everything counted, as one vector whose length depends on the number of classes alone: what a collective adds up.
    /// Counts are exact up to 2^53.
    pub fn sums(&self) -> Vec<f64> {
        let curves = self.curves.iter().flat_map(|curve| curve.positives.iter().chain(&curve.negatives));
        let counts = self.confusion.iter().chain(curves).map(|count| *count as f64);
        let heads = [self.top5 as f64, self.loss, self.squares].into_iter();
        heads.chain(self.calibration.sums()).chain(counts).collect()
    }

    /// The evaluation that has these [`sums`](Self::sums).
    ///
    /// # Errors
    /// If there are not as many as `classes` classes have.
    pub fn from_sums(classes: usize, sums: &[f64]) -> Result<Self, MetricsError> {
        let mut evaluation = Self::new(classes);
        let bins = Curve::bins(classes);
        let heads = 3 + Calibration::SUMS;
        if sums.len() != heads + classes * classes + 2 * classes * bins {
            return Err(MetricsError::Classes { given: sums.len(), classes });
        }
        let (heads, counts) = sums.split_at(heads);
        evaluation.top5 = heads[0] as u64;
        evaluation.loss = heads[1];
        evaluation.squares = heads[2];
        evaluation.calibration = Calibration::from_sums(&heads[3..]);
        let curves =
            evaluation.curves.iter_mut().flat_map(|curve| curve.positives.iter_mut().chain(&mut curve.negatives));
        for (mine, sum) in evaluation.confusion.iter_mut().chain(curves).zip(counts) {
            *mine = *sum as u64;
        }
        Ok(evaluation)
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Examples with this label and this prediction.
    pub fn confused(&self, label: usize, predicted: usize) -> u64 {
        self.confusion[label * self.classes + predicted]
    }

    /// Examples counted.
    pub fn count(&self) -> u64 {
        self.confusion.iter().sum()
    }

    /// Share of the examples that satisfy something; `None` without examples.
    fn share(&self, hits: u64) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| hits as f64 / count as f64)
    }

    /// Share of the examples whose most probable class is their label; `None` without examples.
    pub fn accuracy(&self) -> Option<f64> {
        self.share((0..self.classes).map(|class| self.confused(class, class)).sum())
    }

    /// Share of the examples whose label is among the five most probable classes, of equally probable ones the first;
    /// `None` without examples.
    pub fn top5_accuracy(&self) -> Option<f64> {
        self.share(self.top5)
    }

    /// Mean negative log-likelihood of the labels in nats: the cross-entropy without label smoothing. A probability below
    /// 1.2e-7 counts as that. `None` without examples.
    pub fn loss(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.loss / count as f64)
    }

    /// Brier score: the mean squared difference between the probabilities and the truth, summed over the classes (Brier
    /// 1950, <https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2>) and, as in scikit-learn, halved for two classes,
    /// whose two differences are the same. `None` without examples.
    pub fn brier_score(&self) -> Option<f64> {
        let (count, halves) = (self.count(), if self.classes == 2 { 2.0 } else { 1.0 });
        (count > 0).then(|| self.squares / halves / count as f64)
    }

    /// Expected calibration error over [`CALIBRATION_BINS`](super::CALIBRATION_BINS) bins of equal width of the
    /// prediction's probability; `None` without examples.
    pub fn calibration_error(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.calibration.error())
    }

    /// The reliability curve: how sure the model was and how often it was right, bin by bin.
    pub fn reliability(&self) -> Vec<ReliabilityPoint> {
        self.calibration.curve()
    }

    /// One class against all others.
    pub fn curve(&self, class: usize) -> &Curve {
        &self.curves[class]
    }
}
