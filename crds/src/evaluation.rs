//! The history of a model's evaluations: what a ScoringJob with `evaluate` adds to the model's folder, and what
//! `trainyard evaluations` shows. One file for each evaluation, written once: jobs that end at the same time don't meet.

use serde::{Deserialize, Serialize};

/// Folder of the history below the model's folder.
pub const FOLDER: &str = "evaluations";
/// Version of [`EvaluationRecord`]'s form.
pub const VERSION: u32 = 1;
/// Classes whose share of the predictions has changed most that a [`Drift`] names, at most.
pub const SHIFTS: usize = 10;

/// One evaluation of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationRecord {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// When it ended: RFC 3339, in UTC, to the second.
    pub evaluated: String,
    /// Kind, namespace and name of the job.
    pub job: String,
    /// UID of the job.
    pub uid: String,
    /// Digest of the model: `sha256:` and 64 hexadecimal digits.
    pub model_digest: String,
    /// URI of the data.
    pub data: String,
    /// Digest of the list of images: records with the same one are of the same images.
    pub inputs_digest: String,
    /// URI of the folder with the rows and the report.
    pub output: String,
    /// Images that were scored.
    pub images: u64,
    /// Images among them that could not be read.
    pub unreadable: u64,
    /// How the model did on those with a label.
    pub figures: EvaluationFigures,
    /// What has changed since the training; none if the model was not validated then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
}

/// How a model did on some labelled images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationFigures {
    /// Images.
    pub count: u64,
    /// Share of them that was right, 0 to 1.
    pub accuracy: f64,
    /// Mean of the classes' F1, 0 to 1.
    pub macro_f1: f64,
    /// Mean negative log-likelihood, in nats.
    pub loss: f64,
    /// Expected calibration error, 0 to 1.
    pub calibration_error: f64,
    /// Brier score.
    pub brier_score: f64,
    /// Mean area under the classes' ROC curves, 0 to 1; none if no class has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macro_auc: Option<f64>,
}

/// What has changed since a model was trained. Differences are the figure now less that at training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// The figures on the training's validation images.
    pub at_training: EvaluationFigures,
    /// Difference of the accuracies.
    pub accuracy: f64,
    /// Difference of the F1s.
    pub macro_f1: f64,
    /// Difference of the losses.
    pub loss: f64,
    /// Difference of the calibration errors.
    pub calibration_error: f64,
    /// Population stability index of the predicted classes' shares: 0 for the same shares; from 0.1 on they have moved, from
    /// 0.25 on very much.
    pub prediction_shift: f64,
    /// The same of the labels' shares: how different the images are in kind, whatever the model says.
    pub label_shift: f64,
    /// The classes whose share of the predictions has changed most, the most changed first; at most [`SHIFTS`].
    pub classes: Vec<ClassShift>,
}

/// How the share of a class has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassShift {
    /// Name of the class.
    pub class: String,
    /// Its share of the predictions at training, 0 to 1.
    pub at_training: f64,
    /// Its share now.
    pub now: f64,
}

impl EvaluationRecord {
    /// Name of the record's file: the time, so that names sort by it, and the job's UID.
    pub fn file_name(&self) -> String {
        let of = |text: &str, keep: fn(char) -> bool| text.chars().filter(|c| keep(*c)).collect::<String>();
        let time = of(&self.evaluated, |c| c.is_ascii_alphanumeric());
        format!("{time}-{}.json", of(&self.uid, |c| c.is_ascii_alphanumeric() || c == '-'))
    }
}

/// Whether a name in [`FOLDER`] is that of a record: what a kill left half written begins with a dot.
pub fn is_record(name: &str) -> bool {
    name.ends_with(".json") && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_s_file_is_named_by_time_and_job_and_by_nothing_that_leaves_the_folder() {
        let record = |evaluated: &str, uid: &str| EvaluationRecord {
            version: VERSION,
            evaluated: evaluated.to_owned(),
            job: "ScoringJob default/a".to_owned(),
            uid: uid.to_owned(),
            model_digest: "sha256:0".to_owned(),
            data: "file:///data".to_owned(),
            inputs_digest: "sha256:1".to_owned(),
            output: "file:///out".to_owned(),
            images: 0,
            unreadable: 0,
            figures: EvaluationFigures::default(),
            drift: None,
        };
        for (evaluated, uid, name) in [
            ("2026-11-29T14:05:09Z", "7c9e-1", "20261129T140509Z-7c9e-1.json"),
            ("2026-11-29T14:05:09Z", "../../x/", "20261129T140509Z-x.json"),
        ] {
            assert_eq!(record(evaluated, uid).file_name(), name);
            assert!(is_record(name));
        }
        assert!(!is_record(".20261129T140509Z-x.json.staged-1-0-0"));
        assert!(!is_record("notes.txt"));
    }
}
