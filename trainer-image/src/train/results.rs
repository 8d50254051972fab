//! What a training leaves behind: the weights of its best epoch, the figures, the report, and the card that names them.

use std::sync::Arc;

use crds::TrainingJobSpec;
use crds::contract::{Assignment, JobResult};
use crds::training::DecisionThreshold;

use super::course::Course;
use super::evaluate::{Evaluated, EvaluationOptions, evaluate};
use super::position::Position;
use super::provenance::origin;
use super::replica::Replica;
use super::saving::check_finite;
use super::setup::Setup;
use crate::data::Images;
use crate::ddp::Group;
use crate::fault::Fault;
use crate::folder::Folder;
use crate::metrics::{History, Summary};
use crate::model::{self, Card, METRICS, REPORT, WEIGHTS};
use crate::place::Place;
use crate::zoo::{Model, write_safetensors};

/// Goes back to the best epoch, judges it, and commits the model folder. Rank 0 returns what to tell.
///
/// # Errors
/// [`Cause::Preempted`](crds::contract::Cause::Preempted) after a signal during the evaluation: a checkpoint has the
/// whole training. [`Cause::NotFinite`](crds::contract::Cause::NotFinite) if the last update has spoilt the model.
pub(super) fn leave_behind(
    mut course: Course<'_>,
    job: &Assignment<TrainingJobSpec>,
    folder: Option<&Folder>,
) -> Result<Option<JobResult>, Fault> {
    course.gather_left_out()?;
    course.take_best()?;
    let evaluated = match &course.setup.validation {
        None => None,
        Some(images) => match course.judge_result(images)? {
            None => return Err(course.stopped()?),
            evaluated => evaluated,
        },
    };
    // The model is at hand: that it can't be gone on from is no reason to give it up.
    if let Err(fault) = course.poll_saved() {
        tracing::warn!(%fault, "the last checkpoint could not be saved");
    }
    let Course { setup, place, group, replica, position, .. } = &course;
    let result = match folder {
        None => None,
        Some(folder) => {
            let files = Files::new(job, setup, place, position, evaluated.as_ref(), replica)?;
            Some(JobResult { note: note(position), ..files.commit(folder, &job.spec.output.uri)? })
        }
    };
    group.part()?;
    Ok(result)
}

impl Course<'_> {
    /// Puts the weights that are kept in the model's place, the same on all ranks.
    fn take_best(&mut self) -> Result<(), Fault> {
        let last = self.position.epoch.saturating_sub(1);
        if self.position.best.is_some_and(|best| best.epoch != last) {
            if self.place.is_first() {
                let best = std::mem::take(&mut self.best);
                self.replica.model.state_mut().restore(&best.into_iter().collect())?;
            }
            share(&self.replica.model, self.group)?;
        } else {
            self.replica.swap_average()?;
            self.replica.ddp.share_buffers()?;
        }
        let entries = self.replica.model.state().entries().iter();
        check_finite(entries.map(|entry| (entry.name.as_str(), &entry.tensor)))
            .map_err(|fault| fault.at_step(self.position.step))
    }

    /// What the model that is kept does on these images; none after a signal.
    fn judge_result(&mut self, images: &Arc<Images>) -> Result<Option<Evaluated>, Fault> {
        let options = EvaluationOptions {
            threads: self.place.threads,
            unreadable: self.setup.unreadable(images.dataset().samples.len()),
            scores: true,
        };
        let (group, control, left_out) = (self.group, &mut self.control, &mut self.left_out);
        evaluate(&self.replica, group, images, options, left_out, || Ok(control.stops(group)?))
    }
}

/// Gives all ranks rank 0's weights.
fn share(model: &Model, group: &Group) -> Result<(), Fault> {
    let _no_grad = tch::no_grad_guard();
    for entry in model.state().entries() {
        group.broadcast(&entry.tensor, 0)?;
    }
    Ok(())
}

/// The files of a model folder, in memory.
struct Files {
    card: Card,
    weights: Vec<u8>,
    metrics: Vec<u8>,
    report: String,
}

impl Files {
    fn new(
        job: &Assignment<TrainingJobSpec>,
        setup: &Setup,
        place: &Place,
        position: &Position,
        evaluated: Option<&Evaluated>,
        replica: &Replica<'_>,
    ) -> Result<Files, Fault> {
        let summary = evaluated.and_then(|evaluated| summary(evaluated, &setup.recipe.training.threshold));
        let kept_epoch = position.best.map(|best| best.epoch + 1);
        let history = History {
            epochs: position.history.epochs.clone(),
            kept_epoch,
            evaluation: summary.clone(),
            validation_digest: setup.validation.as_ref().map(|images| images.dataset().digest()),
        };
        let card = card(job, setup, place, summary.as_ref());
        let report =
            super::report::render(&job.name, &card, setup, position, &history, evaluated, replica.launch.told())?;
        Ok(Files {
            card,
            weights: write_safetensors(&replica.model.state().snapshot())?,
            metrics: serde_json::to_vec_pretty(&history).expect("plain data"),
            report,
        })
    }

    fn commit(self, folder: &Folder, uri: &str) -> Result<JobResult, Fault> {
        let (accuracy, threshold) = (self.card.accuracy, self.card.threshold);
        let files =
            [(WEIGHTS, self.weights.as_slice()), (METRICS, self.metrics.as_slice()), (REPORT, self.report.as_bytes())];
        let digest = model::commit(folder, self.card, &files)?;
        Ok(JobResult {
            uri: uri.to_owned(),
            digest: Some(digest),
            metric_name: accuracy.map(|_| "accuracy".to_owned()),
            metric: accuracy,
            threshold,
            ..JobResult::default()
        })
    }
}

/// What a person who looks at the figures alone would miss.
fn note(position: &Position) -> Option<String> {
    let found = position.findings.len() + usize::from(!position.left_out.is_empty());
    let findings = if found == 1 { "finding" } else { "findings" };
    (found > 0).then(|| format!("{found} {findings} about the data: see the report"))
}

/// The figures, of all probabilities where there was room for them, not of the curves' bins alone.
fn summary(evaluated: &Evaluated, rule: &DecisionThreshold) -> Option<Summary> {
    Some(evaluated.evaluation.summary_by(rule)?.refined(&evaluated.scores, rule))
}

fn card(job: &Assignment<TrainingJobSpec>, setup: &Setup, place: &Place, summary: Option<&Summary>) -> Card {
    Card {
        format: model::format(),
        architecture: setup.recipe.model.architecture,
        classes: setup.classes().to_vec(),
        preprocessing_hash: setup.preprocessing.hash(),
        preprocessing: setup.preprocessing.clone(),
        threshold: summary.and_then(|summary| summary.threshold.as_ref()).map(|threshold| threshold.probability),
        accuracy: summary.map(|summary| summary.accuracy),
        recipe: setup.recipe.clone(),
        origin: origin(job, setup, place),
        files: std::collections::BTreeMap::new(),
    }
}
