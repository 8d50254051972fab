//! Scores images with a trained model: the work of one process of a ScoringJob. Each process is a shard of its own.
//!
//! ```text
//!  model folder ─► list ─► output: claim, freeze ─► [ load ─► input ─► network ─► rows ─► commit ]* ─► finish ─► judge
//! ```

mod judge;
pub mod output;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crds::ScoringJobSpec;
use crds::contract::{Assignment, Cause, JobResult};
use crds::training::Precision;
use tch::{Device, Kind};

use self::judge::Judge;
use self::output::{Input as Image, Layout, Manifest, Output, Prediction, Request, Row, Writer};
use crate::data::{self, Dataset, Failures, Images, Labels, Loader, Sample, Source, View, default_threads, open};
use crate::fault::Fault;
use crate::input::{Input, over_batches};
use crate::model::{self, Saved};
use crate::place::Place;
use crate::progress::{Meter, ProgressHandle};
use crate::storage::path_of;
use crate::torch::set_channels_last;
use crate::train::owner;
use crate::zoo::{Blueprint, Model};

/// Classes up to which each has a column with its probability; beyond it the most probable ones stand for all.
const COLUMNS: usize = 100;

/// Scores this process's shard. The process that ends the whole job returns its result.
///
/// # Errors
/// What ends a scoring early. An image that can't be read is no such thing: its row says so.
pub fn run(
    job: &Assignment<ScoringJobSpec>,
    place: &Place,
    device: Device,
    progress: Option<ProgressHandle>,
) -> Result<Option<JobResult>, Fault> {
    let spec = &job.spec;
    let uri = spec.model.uri.as_deref().ok_or_else(|| {
        Fault::new(Cause::Bug, "the assignment names a model by its job: the operator resolves it to a URI")
    })?;
    let saved = model::open(&path_of(uri)?)?;
    let classes = saved.card.classes.clone();
    let source = Source {
        path: path_of(&spec.data.uri)?,
        format: spec.data.format.into(),
        image_column: spec.data.image_column.clone(),
        label_column: spec.data.label_column.clone(),
    };
    let listed = open(&source, Labels::Optional(&classes))?;
    if spec.evaluate && listed.samples.iter().all(|sample| sample.label.is_none()) {
        return Err(Fault::new(
            Cause::BadData,
            format!("evaluate is set and no image of {} has a label", spec.data.uri),
        )
        .hint("lay the images out in class folders named as the model's classes, or give a table with labels"));
    }
    let inputs: Vec<Image> =
        listed.samples.iter().map(|sample| Image { path: sample.path.clone(), label: sample.label }).collect();
    let folder = path_of(&spec.output.uri)?;
    let job_owner = owner(job);
    let (shard, shards) =
        (job.member * place.local_world_size + place.local_rank, job.members * place.local_world_size);
    let request = Request {
        folder: &folder,
        job: &job_owner,
        format: spec.output.format,
        classes: &classes,
        layout: Layout { all_classes: classes.len() <= COLUMNS, top_k: spec.top_k },
        model_digest: &saved.digest,
        inputs: &inputs,
        shard,
        shards,
    };
    let judge = spec.evaluate.then(|| Judge::new(&folder, shard, &saved.card));
    let manifest = match Output::open(&request)? {
        Output::Finished { manifest, .. } => Some(manifest),
        Output::Resume(mut writer) => {
            if writer.inputs_changed() {
                tracing::warn!(
                    "the data has changed since the job started: the images of the first listing are scored"
                );
            }
            let samples = writer.inputs().iter();
            let samples = samples.map(|image| Sample { path: image.path.clone(), label: image.label }).collect();
            let dataset = Dataset { samples, ..listed };
            let mut shard = Shard::new(spec, place, &saved, dataset, device, progress)?;
            shard.score(&mut writer, judge.as_ref())?;
            writer.finish()?.manifest
        }
    };
    let Some(manifest) = manifest else { return Ok(None) };
    let accuracy = judge.map(|judge| judge.conclude(&manifest)).transpose()?;
    Ok(Some(result(spec, &manifest, accuracy)))
}

fn result(spec: &ScoringJobSpec, manifest: &Manifest, accuracy: Option<f64>) -> JobResult {
    JobResult {
        uri: spec.output.uri.clone(),
        digest: Some(manifest.digest()),
        metric_name: accuracy.map(|_| "accuracy".to_owned()),
        metric: accuracy,
        threshold: None,
        rows_in: Some(manifest.rows.inputs),
        rows_out: Some(manifest.rows.written),
        rows_failed: Some(manifest.rows.failed),
    }
}

/// What scores the images of one shard.
struct Shard {
    images: Arc<Images>,
    model: Model,
    input: Input,
    precision: Kind,
    threshold: Option<f32>,
    batch_size: usize,
    threads: usize,
    progress: Option<ProgressHandle>,
    meter: Meter,
}

impl Shard {
    fn new(
        spec: &ScoringJobSpec,
        place: &Place,
        saved: &Saved,
        dataset: Dataset,
        device: Device,
        progress: Option<ProgressHandle>,
    ) -> Result<Shard, Fault> {
        let card = &saved.card;
        let blueprint = Blueprint {
            architecture: card.architecture,
            classes: card.classes.len() as i64,
            image_size: i64::from(card.preprocessing.crop_size),
        };
        let mut model =
            Model::new(blueprint, 0, device).map_err(|error| Fault::new(Cause::BadSpec, error.to_string()))?;
        model.state_mut().restore(&saved.weights)?;
        for entry in model.state().entries() {
            set_channels_last(&entry.tensor)?;
        }
        let threads = match spec.data.loader_threads {
            0 => default_threads(place.local_world_size as usize),
            threads => threads as usize,
        };
        Ok(Shard {
            images: Arc::new(Images::new(Arc::new(dataset), View::evaluation(card.preprocessing.clone()))),
            model,
            input: Input::new(&card.preprocessing, device),
            precision: match spec.precision {
                Precision::Float32 => Kind::Float,
                Precision::BFloat16 => Kind::BFloat16,
                Precision::Float16 => Kind::Half,
            },
            threshold: card.threshold.map(|threshold| threshold as f32),
            batch_size: spec.batch_size as usize,
            threads,
            progress,
            meter: Meter::new(0),
        })
    }

    /// Scores what is missing, part by part.
    fn score(&mut self, writer: &mut Writer, judge: Option<&Judge>) -> Result<(), Fault> {
        let total = writer.range().len() as u64;
        self.meter = Meter::new(writer.rows_done() as u64);
        while let Some(range) = writer.next_missing() {
            let started = Instant::now();
            let rows = self.rows(range.clone(), writer.rows_done() as u64, total)?;
            if let Some(judge) = judge {
                // Before the rows: a part that is there has been judged.
                judge.note(&range, &rows, &self.images.dataset().samples[range.clone()])?;
            }
            let count = range.len();
            writer.commit(range, &rows)?;
            tracing::info!(
                rows = writer.rows_done(),
                total,
                images_per_second = count as f64 / started.elapsed().as_secs_f64(),
                "rows committed"
            );
        }
        Ok(())
    }

    /// The rows of a range of inputs.
    fn rows(&mut self, range: Range<usize>, done: u64, total: u64) -> Result<Vec<Row>, Fault> {
        let batch_size = self.batch_size;
        let end = range.end;
        let requests = range
            .step_by(batch_size)
            .map(move |first| data::Request { epoch: 0, samples: (first..(first + batch_size).min(end)).collect() });
        let options = data::Options { failures: Failures::Report, ..data::Options::new(self.threads) };
        let mut loader = Loader::start(self.images.clone(), requests, options)?;
        let classes = self.images.dataset().classes.len();
        let (threshold, meter, progress) = (self.threshold, &mut self.meter, &self.progress);
        let mut rows: Vec<Row> = Vec::new();
        over_batches(&self.model, &self.input, self.precision, &mut loader, |batch, probabilities| {
            let first = rows.len();
            rows.extend(probabilities.chunks_exact(classes).map(|row| Ok(predict(row, threshold))));
            for (place, error) in &batch.failures {
                rows[first + place] = Err(error.to_string());
            }
            let scored = done + rows.len() as u64;
            meter.add(scored, batch.labels.len() as u64);
            if let Some(handle) = progress {
                handle.update(|progress| {
                    "Scoring".clone_into(&mut progress.stage);
                    progress.step = scored;
                    progress.total_steps = total;
                    progress.images_per_second = meter.images_per_second();
                    progress.eta_seconds = meter.eta_seconds(scored, total);
                });
            }
            Ok(true)
        })?;
        Ok(rows)
    }
}

/// The class of an image: the most probable one, the first of equals; of two classes the second from the model's threshold on.
pub(crate) fn decide(probabilities: &[f32], threshold: Option<f32>) -> usize {
    match (threshold, probabilities) {
        (Some(threshold), [_, second]) => usize::from(*second >= threshold),
        _ => (0..probabilities.len()).rev().max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b])).unwrap_or(0),
    }
}

fn predict(probabilities: &[f32], threshold: Option<f32>) -> Prediction {
    Prediction { class: decide(probabilities, threshold), probabilities: probabilities.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_is_the_most_probable_one_or_the_one_beyond_the_threshold() {
        let table: [(&[f32], Option<f32>, usize); 6] = [
            (&[0.2, 0.5, 0.3], None, 1),
            (&[0.4, 0.4, 0.2], None, 0),
            (&[0.6, 0.4], None, 0),
            (&[0.6, 0.4], Some(0.3), 1),
            (&[0.6, 0.4], Some(0.5), 0),
            (&[0.2, 0.5, 0.3], Some(0.9), 1),
        ];
        for (probabilities, threshold, class) in table {
            assert_eq!(decide(probabilities, threshold), class, "{probabilities:?} {threshold:?}");
        }
    }
}
