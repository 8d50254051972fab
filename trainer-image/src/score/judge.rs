//! Judges a model by the labels of the images it scored. The figures of each part are kept beside the rows until all are
//! there, so that a run that was killed does not score an image twice to count it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crds::contract::Cause;
use serde::{Deserialize, Serialize};

use super::output::{Manifest, Row};
use crate::data::Sample;
use crate::fault::Fault;
use crate::folder::Disk;
use crate::metrics::{Evaluation, Summary, Worst};
use crate::model::Card;
use crate::report::{FactGroup, Report, render};

const NOTES: &str = "_evaluation";
/// Name of the file with the figures.
const FIGURES: &str = "evaluation.json";
/// Name of the file for people.
const REPORT: &str = "report.html";
const WORST: usize = 24;

/// The figures of one part.
#[derive(Serialize, Deserialize)]
struct Note {
    evaluation: Evaluation,
    worst: Worst,
}

/// Judges one job's output.
pub(super) struct Judge {
    folder: PathBuf,
    shard: u32,
    card: Card,
}

impl Judge {
    pub(super) fn new(folder: &Path, shard: u32, card: &Card) -> Judge {
        Judge { folder: folder.to_owned(), shard, card: card.clone() }
    }

    /// Keeps the figures of a range of inputs.
    pub(super) fn note(&self, range: &Range<usize>, rows: &[Row], samples: &[Sample]) -> Result<(), Fault> {
        let mut note = Note { evaluation: Evaluation::new(self.card.classes.len()), worst: Worst::new(WORST) };
        for (row, sample) in rows.iter().zip(samples) {
            if let (Ok(prediction), Some(label)) = (row, sample.label) {
                let label = label as usize;
                note.evaluation.add(label, &prediction.probabilities)?;
                note.worst.offer(label, &prediction.probabilities, || sample.path.to_string_lossy().into_owned());
            }
        }
        Disk::default().create_folder(&self.folder.join(NOTES))?;
        let name = format!("shard-{:05}-{:012}.json", self.shard, range.start);
        self.write(&format!("{NOTES}/{name}"), &serde_json::to_vec(&note).expect("plain data"))
    }

    /// Adds all figures up, writes them with a report, and returns the accuracy. Called again, it does the same again.
    pub(super) fn conclude(&self, manifest: &Manifest) -> Result<f64, Fault> {
        let notes = self.folder.join(NOTES);
        if !notes.exists() {
            return self.concluded();
        }
        let mut all = Note { evaluation: Evaluation::new(self.card.classes.len()), worst: Worst::new(WORST) };
        let reading = |error| Fault::io(format_args!("read {}", notes.display()), error);
        for entry in fs::read_dir(&notes).map_err(reading)? {
            let path = entry.map_err(reading)?.path();
            // What a kill left half written has a name that begins with a dot.
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            let bytes = fs::read(&path).map_err(reading)?;
            let note: Note = serde_json::from_slice(&bytes)
                .map_err(|error| Fault::new(Cause::BadData, format!("{}: {error}", path.display())))?;
            all.evaluation.merge(&note.evaluation)?;
            all.worst.merge(note.worst);
        }
        let summary = all.evaluation.summary().ok_or_else(|| {
            Fault::new(Cause::BadData, "no image with a label could be read: there is nothing to judge the model by")
        })?;
        self.write(REPORT, self.report(&all, manifest)?.as_bytes())?;
        self.write(FIGURES, &serde_json::to_vec_pretty(&summary).expect("plain data"))?;
        fs::remove_dir_all(&notes).map_err(|error| Fault::io(format_args!("remove {}", notes.display()), error))?;
        Ok(summary.accuracy)
    }

    /// The accuracy that an earlier run wrote.
    fn concluded(&self) -> Result<f64, Fault> {
        let path = self.folder.join(FIGURES);
        let bytes = fs::read(&path).map_err(|error| Fault::io(format_args!("read {}", path.display()), error))?;
        let summary: Summary = serde_json::from_slice(&bytes)
            .map_err(|error| Fault::new(Cause::BadData, format!("{}: {error}", path.display())))?;
        Ok(summary.accuracy)
    }

    fn report(&self, all: &Note, manifest: &Manifest) -> Result<String, Fault> {
        let facts = FactGroup::new("Run")
            .fact("model", &self.card.origin.job)
            .fact("architecture", self.card.architecture.name())
            .fact("images", manifest.rows.inputs.to_string())
            .fact("images that could not be read", manifest.rows.failed.to_string())
            .fact("images with a label", all.evaluation.count().to_string())
            .maybe("accuracy at training", self.card.accuracy.map(|accuracy| format!("{:.2} %", 100.0 * accuracy)));
        let lead = format!("{} scored {} images", self.card.architecture.name(), manifest.rows.inputs);
        let report = Report {
            kind: "Evaluation report",
            title: &self.card.origin.job,
            lead: &lead,
            classes: &self.card.classes,
            evaluated_on: "labelled images",
            evaluation: Some(&all.evaluation),
            facts: vec![facts],
            ..Report::default()
        };
        render(&report).map_err(|error| Fault::new(Cause::Bug, format!("can't render the report: {error}")))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        Ok(Disk::default().put(&self.folder.join(name), |file| file.write_all(bytes))?)
    }
}
