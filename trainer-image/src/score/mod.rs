//! Scores images with a trained model: the work of one process of a ScoringJob. Each process has a shard of its own, or
//! several where there are fewer processes now than there were when the output was begun.
//!
//! ```text
//!  model folder ─► list, once ─► output: claim, freeze ─► pipeline: load ─► network ─► rows ─► commit ─► finish ─► judge
//! ```

mod drift;
mod judge;
mod labels;
pub mod output;
mod pipeline;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crds::ScoringJobSpec;
use crds::contract::{Assignment, Cause, JobResult};
use tch::Device;

use self::judge::{Judge, Judgement, Subject};
use self::output::{Input as Image, Layout, Listing, Manifest, Output, Request, Share, Writer};
use self::pipeline::{Pipeline, requests};
use crate::data::{
    Dataset, Failures, Images, Labels, Loader, Options, Sample, Source, View, default_threads, names_labels, open,
    reopen,
};
use crate::fault::Fault;
use crate::inference::{Classifier, Settings};
use crate::model::{self, Saved};
use crate::place::Place;
use crate::progress::ProgressHandle;
use crate::storage::path_of;
use crate::train::owner;

/// Classes up to which each has a column with its probability; beyond it the most probable ones stand for all.
const COLUMNS: usize = 1000;

/// Scores this process's shards. The process that ends the whole job returns its result.
///
/// # Errors
/// What ends a scoring early. An image that can't be read is no such thing: its row says so.
pub fn run(
    job: &Assignment<ScoringJobSpec>,
    place: &Place,
    device: Device,
    progress: Option<&ProgressHandle>,
) -> Result<Option<JobResult>, Fault> {
    let spec = &job.spec;
    let uri = spec.model.uri.as_deref().ok_or_else(|| {
        Fault::new(Cause::Bug, "the assignment names a model by its job: the operator resolves it to a URI")
    })?;
    let model = path_of(uri)?;
    let saved = model::open(&model)?;
    let (classes, digest) = (saved.card.classes.clone(), saved.digest.clone());
    let source = Source {
        path: path_of(&spec.data.uri)?,
        format: spec.data.format.into(),
        image_column: spec.data.image_column.clone(),
        label_column: spec.data.label_column.clone(),
    };
    let folder = path_of(&spec.output.uri)?;
    let (listing, images) = list(spec, &source, &classes, &folder)?;
    let job_owner = owner(job);
    let share = Share {
        member: job.member,
        members: job.members,
        process: place.local_rank,
        processes: place.local_world_size,
    };
    let request = Request {
        folder: &folder,
        job: &job_owner,
        format: spec.output.format,
        classes: &classes,
        layout: Layout { all_classes: classes.len() <= COLUMNS, top_k: spec.top_k },
        model_digest: &digest,
        listing: listing.as_ref(),
        share,
    };
    let output = Output::open(&request)?;
    let judge = spec.evaluate.then(|| {
        let subject = Subject {
            model,
            model_digest: digest.clone(),
            card: saved.card.clone(),
            data: spec.data.uri.clone(),
            images: images.clone(),
            output: spec.output.uri.clone(),
            job: job_owner.clone(),
        };
        Judge::new(&folder, subject)
    });
    let manifest = match output {
        Output::Finished { manifest, .. } => Some(manifest),
        Output::Resume(mut writers) => {
            let Some(first) = writers.first() else {
                tracing::info!("the output has fewer shards than there are processes: this one has nothing to do");
                return Ok(None);
            };
            if let Some(note) = first.inputs_done().note {
                tracing::warn!("{}: {note}", spec.data.uri);
            }
            if first.inputs_changed() {
                tracing::warn!(
                    "the data has changed since the job started: the images of the first listing are scored"
                );
            }
            let samples = first.inputs().iter();
            let samples = samples.map(|image| Sample { path: image.path.clone(), label: image.label }).collect();
            let dataset = Dataset { samples, ..images };
            let due = writers.iter().flat_map(Writer::missing).collect();
            let pipeline = pipeline(spec, place, saved, dataset, device, due)?;
            pipeline.run(&mut writers, judge.as_ref(), progress)?;
            let mut complete = None;
            for writer in writers {
                complete = writer.finish()?.manifest;
            }
            complete
        }
    };
    let Some(manifest) = manifest else { return Ok(None) };
    let judgement = judge.map(|judge| judge.conclude(&manifest)).transpose()?;
    Ok(Some(result(spec, &manifest, judgement)))
}

/// The images to score, and where they are read from. There is no list where an earlier shard or attempt has made one: what
/// has come since changes nothing.
fn list(
    spec: &ScoringJobSpec,
    source: &Source,
    classes: &[String],
    folder: &Path,
) -> Result<(Option<Listing>, Dataset), Fault> {
    let again = || -> Result<(Option<Listing>, Dataset), Fault> { Ok((None, reopen(source, classes, Vec::new())?)) };
    if Output::has_listing(folder)? {
        return again();
    }
    let listed = open(source, Labels::Optional(classes))?;
    let note = match spec.evaluate.then(|| labels::check(&listed, &spec.data.uri)).transpose() {
        Ok(note) => note.flatten(),
        // Another shard may have listed them meanwhile, and found them good.
        Err(_) if Output::has_listing(folder)? => return again(),
        Err(fault) => return Err(fault),
    };
    let (images, images_digest) = (listed.subset(&[]), listed.digest());
    let samples = listed.samples.into_iter();
    let mut inputs: Vec<Image> = samples.map(|Sample { path, label }| Image { path, label, stranger: None }).collect();
    if spec.evaluate || names_labels(source)? {
        for (text, of) in listed.strangers {
            of.into_iter().for_each(|index| inputs[index].stranger = Some(text.clone()));
        }
    }
    Ok((Some(Listing { inputs, images_digest, note }), images))
}

fn result(spec: &ScoringJobSpec, manifest: &Manifest, judgement: Option<Judgement>) -> JobResult {
    let accuracy = judgement.as_ref().map(|judgement| judgement.accuracy);
    let unknown = manifest.inputs.note.clone();
    let notes: Vec<String> = unknown.into_iter().chain(judgement.and_then(|judgement| judgement.note)).collect();
    JobResult {
        uri: spec.output.uri.clone(),
        digest: Some(manifest.digest()),
        metric_name: accuracy.map(|_| "accuracy".to_owned()),
        metric: accuracy,
        threshold: None,
        rows_in: Some(manifest.rows.inputs),
        rows_out: Some(manifest.rows.written),
        rows_failed: Some(manifest.rows.failed),
        note: (!notes.is_empty()).then(|| notes.join(". ")),
    }
}

/// What scores these ranges of the images of `dataset`. Loading begins before the network is prepared.
fn pipeline(
    spec: &ScoringJobSpec,
    place: &Place,
    saved: Saved,
    dataset: Dataset,
    device: Device,
    due: Vec<Range<usize>>,
) -> Result<Pipeline, Fault> {
    let batch_size = spec.batch_size as usize;
    let threads = match spec.data.loader_threads {
        0 => default_threads(place.local_world_size as usize),
        threads => threads as usize,
    };
    let preprocessing = &saved.card.preprocessing;
    preprocessing.check()?;
    let view = View::evaluation(preprocessing.clone());
    // Each image is looked at once: none is kept.
    let images = Arc::new(Images::new(Arc::new(dataset), view).cache(0));
    let options = Options { failures: Failures::Report, ..Options::new(threads) };
    let loader = Loader::start(images.clone(), requests(due.clone(), batch_size), options)?;
    let classifier = Classifier::prepare(&saved, Settings::new(device, spec.precision, batch_size))?;
    // The network has its own weights.
    drop(saved);
    tracing::info!(network = classifier.how(), "the model is ready");
    Ok(Pipeline { classifier, images, loader, due: due.into() })
}
