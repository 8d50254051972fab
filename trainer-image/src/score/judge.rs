//! Judges a model by the labels of the images it scored. The figures of each part are kept beside the rows until all are
//! there, so that a run that was killed does not score an image twice to count it.

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
        // The figures are written when all notes are there, which are cleared away afterwards: some may be gone.
        if let Some(accuracy) = self.concluded()? {
            return self.clear(accuracy);
        }
        let disk = Disk::default();
        let notes = self.folder.join(NOTES);
        let mut all = Note { evaluation: Evaluation::new(self.card.classes.len()), worst: Worst::new(WORST) };
        for name in disk.list(&notes)? {
            // What a kill left half written has a name that begins with a dot.
            if name.starts_with('.') {
                continue;
            }
            let path = notes.join(name);
            let Some(bytes) = disk.read(&path)? else { continue };
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
        self.clear(summary.accuracy)
    }

    fn clear(&self, accuracy: f64) -> Result<f64, Fault> {
        Disk::default().remove_folder(&self.folder.join(NOTES))?;
        Ok(accuracy)
    }

    /// The accuracy that an earlier run wrote, if one did.
    fn concluded(&self) -> Result<Option<f64>, Fault> {
        let path = self.folder.join(FIGURES);
        let Some(bytes) = Disk::default().read(&path)? else { return Ok(None) };
        let summary: Summary = serde_json::from_slice(&bytes)
            .map_err(|error| Fault::new(Cause::BadData, format!("{}: {error}", path.display())))?;
        Ok(Some(summary.accuracy))
    }

    fn report(&self, all: &Note, manifest: &Manifest) -> Result<String, Fault> {
        let facts = FactGroup::new("Run")
            .fact("model", &self.card.origin.job)
            .fact("architecture", self.card.architecture.name())
            .fact("images", manifest.rows.inputs.to_string())
            .fact("images that could not be read", manifest.rows.failed.to_string())
            .fact("images with a label", all.evaluation.count().to_string())
            .maybe("accuracy at training", self.card.accuracy.map(|accuracy| format!("{:.2} %", 100.0 * accuracy)));
        let facts = match (self.card.threshold, self.card.classes.as_slice()) {
            // The rows decide by it; the figures above are those of the more probable class.
            (Some(threshold), [_, second]) => {
                let rates = all.evaluation.curve(1).rates_at(threshold);
                let percent = |rate: f64| format!("{:.1} %", 100.0 * rate);
                facts
                    .fact("the rows' decision", format!("{second} from a probability of {threshold:.4} on"))
                    .maybe("finds of this class", rates.map(|rates| percent(rates.true_positive_rate)))
                    .maybe("takes of the other for it", rates.map(|rates| percent(rates.false_positive_rate)))
            }
            _ => facts,
        };
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
