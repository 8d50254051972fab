//! `report.html`: what a person looks at after a training or an evaluation. One file that needs nothing else: it can be
//! mailed, kept for years and opened on a phone without a network.
//!
//! ```text
//!  Report ─► page ─┬─ figures      accuracy and its interval, loss, F1, comparison with the model before, or with training
//!                  ├─ findings     what was found in the data before training
//!                  ├─ curves ──────┐
//!                  ├─ roc ─────────┼─ plot   SVG that stretches, labels in HTML that don't
//!                  ├─ calibration ─┘
//!                  ├─ time         where the time went
//!                  ├─ classes      confusion matrix, confused pairs, figures of each class
//!                  └─ wrong        the most wrong images
//! ```
//!
//! Each section is there only if its part of the [`Report`] is. Everything that comes from outside is escaped by the
//! templates, cleaned and cut by [`text`], and a content security policy lets only the page's own script run.

mod calibration;
mod classes;
mod curves;
mod figures;
mod findings;
mod page;
mod plot;
mod roc;
#[cfg(test)]
mod tests;
mod text;
mod time;
mod wrong;

use crate::metrics::{Evaluation, History, Summary, Threshold, WrongPrediction};

/// What a report shows. Leave out what is not known: `Report { title, classes, ..Report::default() }`.
#[derive(Clone, Debug, Default)]
pub struct Report<'a> {
    /// What it is, above the title: `Training report`.
    pub kind: &'a str,
    /// Name of the job.
    pub title: &'a str,
    /// A sentence below the title: what was done with what.
    pub lead: &'a str,
    /// When the run ended, for people.
    pub finished: &'a str,
    /// Names of the classes, by index. A class without a name is called by its index.
    pub classes: &'a [String],
    /// What the evaluation was made on: `validation images`.
    pub evaluated_on: &'a str,
    /// How the model did.
    pub evaluation: Option<&'a Evaluation>,
    /// The decision threshold for the second of two classes; the evaluation's own if there is none.
    pub threshold: Option<Threshold>,
    /// The course of the training.
    pub history: Option<&'a History>,
    /// The learning rate between the epochs: after so many epochs, and how large. At the end of each epoch if it is empty.
    pub learning_rates: Vec<(f64, f64)>,
    /// What was found in the data before training: what was looked at, and a sentence. At most 20 are shown.
    pub findings: Vec<(String, String)>,
    /// What the figures are compared with.
    pub previous: Option<Previous<'a>>,
    /// The most wrong images, the worst first. At most 48 are shown.
    pub wrong: Vec<WrongImage>,
    /// How the run was made: model, data, infrastructure, versions.
    pub facts: Vec<FactGroup>,
}

/// What a model's figures are compared with.
#[derive(Clone, Copy, Debug)]
pub struct Previous<'a> {
    /// What it is.
    pub relation: Relation,
    /// What it is called: the name of its job or its URI.
    pub name: &'a str,
    /// Its figures.
    pub summary: &'a Summary,
    /// Whether both were evaluated on the same images. If not, the report says that the figures can't be compared exactly.
    pub same_images: bool,
}

/// What a model is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The model that it was retrained from.
    Parent,
    /// Itself, as it was judged when it was trained.
    Training,
}

/// An image that was taken for something else.
#[derive(Clone, Debug, PartialEq)]
pub struct WrongImage {
    /// Its name in the data.
    pub name: String,
    /// Index of the true class.
    pub label: usize,
    /// Index of the class it was taken for.
    pub predicted: usize,
    /// Probability of the class it was taken for, 0 to 1.
    pub probability: f32,
    /// Probability of the true class, 0 to 1.
    pub label_probability: f32,
    /// A PNG of it, 160 pixels wide at most for the sake of the file's size. What is no PNG or is larger than 128 KiB is not shown.
    pub thumbnail: Vec<u8>,
}

impl WrongImage {
    /// What was found of an image, with its picture if there is one.
    pub fn new(found: &WrongPrediction, thumbnail: Option<Vec<u8>>) -> Self {
        let WrongPrediction { name, label, predicted, probability, label_probability } = found.clone();
        Self { name, label, predicted, probability, label_probability, thumbnail: thumbnail.unwrap_or_default() }
    }
}

/// Facts that belong together, under one heading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactGroup {
    /// The heading.
    pub title: String,
    /// Names and values, in their order.
    pub facts: Vec<(String, String)>,
}

impl FactGroup {
    /// A group without facts.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), facts: Vec::new() }
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.facts.push((name.into(), value.into()));
        self
    }

    /// Adds a fact if there is one.
    #[must_use]
    pub fn maybe(self, name: impl Into<String>, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.fact(name, value),
            None => self,
        }
    }
}

/// The report as one HTML document. Its size is bounded, whatever the number of classes, epochs and images.
///
/// # Errors
/// Never for a report of this module's making; the templates' engine has an error type for templates that can fail.
pub fn render(report: &Report<'_>) -> Result<String, askama::Error> {
    page::render(report)
}
