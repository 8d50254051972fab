//! Judges a model by the labels of the images it scored. The figures of each part are kept beside the rows until all are
//! there, so that a run that was killed does not score an image twice to count it.
//!
//! ```text
//!  parts ─► notes ─► figures, drift since training, report ─► the output ─► a record in the model's folder
//! ```
//!
//! Whoever ends the job does all of it; ended again, it does nothing twice: the figures in the output are those that
//! were there first, and they carry the time that names the record.

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};

use crds::contract::Cause;
use crds::evaluation::{self, Drift, EvaluationRecord};
use serde::{Deserialize, Serialize};

use super::drift;
use super::output::{Manifest, Row};
use crate::data::{Dataset, Decoder, MAX_PIXELS, Sample};
use crate::fault::Fault;
use crate::folder::{Disk, FolderError, Owner};
use crate::metrics::{Evaluation, History, Summary, Worst};
use crate::model::{self, Card};
use crate::report::{FactGroup, Previous, Relation, Report, WrongImage, render};

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

/// What was found in the end: the file with the figures.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    /// When: RFC 3339, in UTC, to the second.
    evaluated: String,
    #[serde(flatten)]
    summary: Summary,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drift: Option<Drift>,
}

/// What is judged.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// The model's folder.
    pub(super) model: PathBuf,
    pub(super) model_digest: String,
    pub(super) card: Card,
    /// URI of the data.
    pub(super) data: String,
    /// Where the images are read from.
    pub(super) images: Dataset,
    /// URI of the output.
    pub(super) output: String,
    pub(super) job: Owner,
}

/// Judges one job's output.
pub(super) struct Judge {
    folder: PathBuf,
    subject: Subject,
}

/// What a judgement comes to.
pub(super) struct Judgement {
    pub(super) accuracy: f64,
    /// Why it is not in the model's history, if it isn't.
    pub(super) note: Option<String>,
}

impl Judge {
    pub(super) fn new(folder: &Path, subject: Subject) -> Judge {
        Judge { folder: folder.to_owned(), subject }
    }

    /// Keeps the figures of a range of a shard's inputs.
    pub(super) fn note(&self, shard: u32, range: &Range<usize>, rows: &[Row], samples: &[Sample]) -> Result<(), Fault> {
        let mut note = Note { evaluation: Evaluation::new(self.subject.card.classes.len()), worst: Worst::new(WORST) };
        for (row, sample) in rows.iter().zip(samples) {
            if let (Ok(prediction), Some(label)) = (row, sample.label) {
                let label = label as usize;
                note.evaluation.add(label, &prediction.probabilities)?;
                note.worst.offer(label, &prediction.probabilities, || sample.path.to_string_lossy().into_owned());
            }
        }
        Disk::default().create_folder(&self.folder.join(NOTES))?;
        let name = format!("shard-{shard:05}-{:012}.json", range.start);
        self.put(&format!("{NOTES}/{name}"), &serde_json::to_vec(&note).expect("plain data"))
    }

    /// Adds all figures up, writes them with a report, and adds them to the model's history. Called again, it does the same
    /// again.
    pub(super) fn conclude(&self, manifest: &Manifest) -> Result<Judgement, Fault> {
        // The figures are written when all notes are there, which are cleared away afterwards: some may be gone.
        let verdict = match self.concluded()? {
            Some(verdict) => verdict,
            None => self.reach(manifest)?,
        };
        let note = self.remember(&verdict, manifest).err().map(|error| {
            tracing::warn!(%error, "the evaluation is not in the model's history");
            format!("The evaluation could not be added to the model's history: {error}")
        });
        Disk::default().remove_folder(&self.folder.join(NOTES))?;
        Ok(Judgement { accuracy: verdict.summary.accuracy, note })
    }

    fn reach(&self, manifest: &Manifest) -> Result<Verdict, Fault> {
        let all = self.gather();
        // A peer that comes to the end at the same time clears the notes away after it has written the figures: without these,
        // all notes were there while they were read; with them, what was read may be a part, and nothing is made of it.
        if let Some(verdict) = self.concluded()? {
            return Ok(verdict);
        }
        let all = all?;
        let summary = all.evaluation.summary().ok_or_else(|| {
            Fault::new(Cause::BadData, "no image with a label could be read: there is nothing to judge the model by")
        })?;
        let training = self.at_training();
        let names = &self.subject.card.classes;
        let before = training.as_ref().and_then(|history| history.evaluation.as_ref());
        let drift = before.map(|before| drift::drift(before, &summary, names));
        self.put(REPORT, self.report(&all, manifest, training.as_ref(), drift.as_ref())?.as_bytes())?;
        let now = jiff::Timestamp::now();
        let evaluated = now.round(jiff::Unit::Second).unwrap_or(now).to_string();
        let verdict = serde_json::to_vec_pretty(&Verdict { evaluated, summary, drift }).expect("plain data");
        // Of two processes that come to the end the first one's time counts.
        Disk::default().put_new(&self.folder.join(FIGURES), &verdict)?;
        self.concluded()?
            .ok_or_else(|| Fault::new(Cause::Storage, format!("{FIGURES} was removed while it was written")))
    }

    /// The figures of all parts.
    fn gather(&self) -> Result<Note, Fault> {
        let disk = Disk::default();
        let notes = self.folder.join(NOTES);
        let classes = self.subject.card.classes.len();
        let mut all = Note { evaluation: Evaluation::new(classes), worst: Worst::new(WORST) };
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
        Ok(all)
    }

    /// The figures that an earlier run wrote, if one did.
    fn concluded(&self) -> Result<Option<Verdict>, Fault> {
        let path = self.folder.join(FIGURES);
        let Some(bytes) = Disk::default().read(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Fault::new(Cause::BadData, format!("{}: {error}", path.display())))
    }

    /// How the model did when it was trained. Figures that can't be read are a warning, and no reason to give up others.
    fn at_training(&self) -> Option<History> {
        let read = model::figures(&self.subject.model);
        read.inspect_err(|fault| tracing::warn!("there is nothing to compare the figures with: {fault}"))
            .ok()
            .map(|(_, history)| history)
    }

    /// Adds a record to the history in the model's folder; one that is there stays.
    fn remember(&self, verdict: &Verdict, manifest: &Manifest) -> Result<(), FolderError> {
        let Subject { model, model_digest, data, output, job, .. } = &self.subject;
        let record = EvaluationRecord {
            version: evaluation::VERSION,
            evaluated: verdict.evaluated.clone(),
            job: job.name.clone(),
            uid: job.uid.clone(),
            model_digest: model_digest.clone(),
            data: data.clone(),
            inputs_digest: manifest.inputs.digest.clone(),
            output: output.clone(),
            images: manifest.rows.inputs,
            unreadable: manifest.rows.failed,
            figures: drift::figures(&verdict.summary),
            drift: verdict.drift.clone(),
        };
        let disk = Disk::default();
        let folder = model.join(evaluation::FOLDER);
        disk.create_folder(&folder)?;
        let bytes = serde_json::to_vec_pretty(&record).expect("plain data");
        disk.put_new(&folder.join(record.file_name()), &bytes).map(drop)
    }

    fn report(
        &self,
        all: &Note,
        manifest: &Manifest,
        training: Option<&History>,
        drift: Option<&Drift>,
    ) -> Result<String, Fault> {
        let Subject { card, images, .. } = &self.subject;
        let lead = format!("{} scored {} images", card.architecture.name(), manifest.rows.inputs);
        let mut decoder = Decoder::new(MAX_PIXELS);
        let wrong = all.worst.predictions().iter();
        let wrong = wrong.map(|found| WrongImage::new(found, images.thumbnail(&mut decoder, Path::new(&found.name))));
        let report = Report {
            kind: "Evaluation report",
            title: &self.subject.job.name,
            lead: &lead,
            classes: &card.classes,
            evaluated_on: "labelled images",
            evaluation: Some(&all.evaluation),
            previous: training.and_then(|history| {
                Some(Previous {
                    relation: Relation::Training,
                    name: &card.origin.job,
                    summary: history.evaluation.as_ref()?,
                    same_images: history.validation_digest.as_ref() == Some(&manifest.inputs.images_digest),
                })
            }),
            wrong: wrong.collect(),
            facts: self.facts(all, manifest, drift),
            ..Report::default()
        };
        render(&report).map_err(|error| Fault::new(Cause::Bug, format!("can't render the report: {error}")))
    }

    fn facts(&self, all: &Note, manifest: &Manifest, drift: Option<&Drift>) -> Vec<FactGroup> {
        let Subject { card, model_digest, data, output, job, .. } = &self.subject;
        let percent = |rate: f64| format!("{:.1} %", 100.0 * rate);
        let images = FactGroup::new("Data")
            .fact("source", data)
            .fact("images", manifest.rows.inputs.to_string())
            .fact("images that could not be read", manifest.rows.failed.to_string())
            .fact("images with a label", all.evaluation.count().to_string())
            .fact("list's digest", &manifest.inputs.digest);
        let mut model = FactGroup::new("Model")
            .fact("trained by", &card.origin.job)
            .fact("finished", &card.origin.finished)
            .fact("architecture", card.architecture.name())
            .fact("digest", model_digest)
            .maybe("accuracy at training", card.accuracy.map(|accuracy| format!("{:.2} %", 100.0 * accuracy)));
        if let (Some(threshold), [_, second]) = (card.threshold, card.classes.as_slice()) {
            // The rows decide by it; the figures above are those of the more probable class.
            let rates = all.evaluation.curve(1).rates_at(threshold);
            model = model
                .fact("the rows' decision", format!("{second} from a probability of {threshold:.4} on"))
                .maybe("finds of this class", rates.map(|rates| percent(rates.true_positive_rate)))
                .maybe("takes of the other for it", rates.map(|rates| percent(rates.false_positive_rate)));
        }
        let run = FactGroup::new("Run")
            .fact("job", &job.name)
            .fact("UID", &job.uid)
            .fact("attempt", job.attempt.to_string())
            .fact("rows", output);
        let mut groups = vec![images, model, run];
        groups.extend(drift.map(drift_facts));
        groups
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        Ok(Disk::default().put(&self.folder.join(name), |file| file.write_all(bytes))?)
    }
}

fn drift_facts(drift: &Drift) -> FactGroup {
    let index = |index: f64| format!("{index:.3}, {}", drift::reading(index));
    let group = FactGroup::new("Drift since training")
        .fact("accuracy", format!("{:+.2} points", 100.0 * drift.accuracy))
        .fact("macro F1", format!("{:+.2} points", 100.0 * drift.macro_f1))
        .fact("calibration error", format!("{:+.2} points", 100.0 * drift.calibration_error))
        .fact("predicted classes, population stability index", index(drift.prediction_shift))
        .fact("labels, population stability index", index(drift.label_shift));
    drift.classes.iter().fold(group, |group, shift| {
        let shares = format!("{:.1} % at training, {:.1} % now", 100.0 * shift.at_training, 100.0 * shift.now);
        group.fact(format!("predicted as {}", shift.class), shares)
    })
}
