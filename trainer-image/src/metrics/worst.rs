//! The most wrong predictions: those in which the model was surest of a class that is not the label. They show wrong
//! labels and blind spots better than any figure.

use serde::{Deserialize, Serialize};

/// An image that was taken for something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WrongPrediction {
    /// Which image: its name in the data.
    pub name: String,
    /// Index of the true class.
    pub label: usize,
    /// Index of the class it was taken for.
    pub predicted: usize,
    /// Probability of the class it was taken for, 0 to 1.
    pub probability: f32,
    /// Probability of the true class, 0 to 1.
    pub label_probability: f32,
}

/// The most wrong predictions, a bounded number of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Worst {
    limit: usize,
    /// The most wrong one first.
    predictions: Vec<WrongPrediction>,
}

impl Worst {
    /// Keeps at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self { limit, predictions: Vec::new() }
    }

    /// Looks at one prediction; `name` is asked for only if it is kept. The order is by the probability of the wrong
    /// class, then by name, so that it does not depend on the order of the ranks.
    pub fn offer(&mut self, label: usize, probabilities: &[f32], name: impl FnOnce() -> String) {
        let Some(predicted) = (0..probabilities.len())
            .reduce(|best, class| if probabilities[class] > probabilities[best] { class } else { best })
        else {
            return;
        };
        let Some(label_probability) = probabilities.get(label).copied() else { return };
        let probability = probabilities[predicted];
        let full = self.predictions.len() >= self.limit;
        if predicted == label || (full && self.predictions.last().is_none_or(|last| probability < last.probability)) {
            return;
        }
        self.insert(WrongPrediction { name: name(), label, predicted, probability, label_probability });
    }

    /// Adds what another rank kept.
    pub fn merge(&mut self, other: Self) {
        for prediction in other.predictions {
            self.insert(prediction);
        }
    }

    fn insert(&mut self, prediction: WrongPrediction) {
        let before = |other: &WrongPrediction| {
            other
                .probability
                .total_cmp(&prediction.probability)
                .reverse()
                .then_with(|| other.name.cmp(&prediction.name))
                .is_lt()
        };
        let at = self.predictions.partition_point(before);
        self.predictions.insert(at, prediction);
        self.predictions.truncate(self.limit);
    }

    /// What was kept, the most wrong one first.
    pub fn predictions(&self) -> &[WrongPrediction] {
        &self.predictions
    }
}
