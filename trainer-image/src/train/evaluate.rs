//! A model over labelled images on all ranks: each image on one of them, figures added up.

use std::sync::Arc;
use std::time::Duration;

use crds::contract::Cause;
use tch::{Device, Tensor};

use super::left_out::LeftOut;
use super::replica::Replica;
use crate::data::{Failures, Images, Loader, Options, Request, evaluation_part};
use crate::ddp::Group;
use crate::fault::Fault;
use crate::input::over_batches;
use crate::metrics::{Evaluation, Worst};

/// Most wrong images that are kept for the report.
const WORST: usize = 24;
/// How long rank 0 waits for what another rank found.
const WAIT: Duration = Duration::from_secs(60);

/// What an evaluation found, the same on every rank but for `worst`, which rank 0 alone has for all.
pub(super) struct Evaluated {
    pub(super) evaluation: Evaluation,
    pub(super) worst: Worst,
    /// If asked for: of each image that was seen, the probability of the second class and whether it is of it.
    pub(super) scores: Vec<(f32, bool)>,
}

/// How to evaluate.
#[derive(Clone, Copy, Debug)]
pub(super) struct EvaluationOptions {
    /// Threads that load images.
    pub(super) threads: usize,
    /// Images that may be unreadable.
    pub(super) unreadable: usize,
    /// Whether to keep the probability of the second class of each image.
    pub(super) scores: bool,
}

/// This rank's part of the images in batches, of so many at once.
pub(super) fn load(
    group: &Group,
    images: &Arc<Images>,
    batch_size: usize,
    options: EvaluationOptions,
) -> Result<Loader<Images>, Fault> {
    let part = evaluation_part(images.dataset().samples.len(), group.rank() as usize, group.world_size() as usize);
    let requests = part
        .clone()
        .step_by(batch_size)
        .map(move |first| Request { epoch: 0, samples: (first..(first + batch_size).min(part.end)).collect() });
    let failures = if options.unreadable == 0 { Failures::Stop } else { Failures::Report };
    let loading = Options { failures, ..Options::new(options.threads) };
    Ok(Loader::start(images.clone(), requests, loading)?)
}

/// Evaluates the replica; images that can't be used are left out of the figures. None if `stop` said so on any rank before all was seen.
pub(super) fn evaluate(
    replica: &Replica<'_>,
    group: &Group,
    images: &Arc<Images>,
    options: EvaluationOptions,
    left_out: &mut LeftOut,
    stop: impl FnMut() -> Result<bool, Fault>,
) -> Result<Option<Evaluated>, Fault> {
    let loader = load(group, images, replica.settings.batch_size, options)?;
    evaluate_loaded(replica, group, images, loader, options, left_out, stop)
}

/// As [`evaluate`], of images that are being loaded.
pub(super) fn evaluate_loaded(
    replica: &Replica<'_>,
    group: &Group,
    images: &Arc<Images>,
    mut loader: Loader<Images>,
    options: EvaluationOptions,
    left_out: &mut LeftOut,
    mut stop: impl FnMut() -> Result<bool, Fault>,
) -> Result<Option<Evaluated>, Fault> {
    let dataset = images.dataset();
    let classes = dataset.classes.len();
    let mut failed = 0;
    let mut evaluation = Evaluation::new(classes);
    let mut worst = Worst::new(WORST);
    // The bits of each image's probability plus one, and 0 for those that this rank has not seen: their sum over the ranks
    // is exact.
    let mut seen = if options.scores { vec![0.0; dataset.samples.len()] } else { Vec::new() };
    let whole = over_batches(
        &replica.model,
        &replica.input,
        replica.settings.precision,
        &mut loader,
        |batch, probabilities| {
            for (_, error) in &batch.failures {
                failed += 1;
                left_out.add(error.to_string());
                if failed > options.unreadable {
                    let message = format!(
                        "{failed} validation images can't be used, {} are allowed; one is {error}",
                        options.unreadable
                    );
                    return Err(Fault::new(Cause::BadData, message).hint(error.hint()));
                }
            }
            for (place, row) in probabilities.chunks_exact(classes).enumerate() {
                if batch.failures.iter().any(|(failed, _)| *failed == place) {
                    continue;
                }
                let label = batch.labels[place] as usize;
                evaluation.add(label, row)?;
                if options.scores {
                    seen[batch.indices[place]] = f64::from(row[1].to_bits()) + 1.0;
                }
                worst.offer(label, row, || dataset.samples[batch.indices[place]].path.to_string_lossy().into_owned());
            }
            Ok(!stop()?)
        },
    )?;
    let mut sums = evaluation.sums();
    let counted = sums.len();
    sums.extend(seen);
    sums.push(if whole { 0.0 } else { 1.0 });
    // NCCL sums on the GPU, Gloo on the host: the tensor goes where the model is.
    let shared = Tensor::from_slice(&sums).to_device(replica.input.device());
    group.all_reduce_sum(&shared)?;
    let mut sums: Vec<f64> = Vec::try_from(&shared.to_device(Device::Cpu))?;
    if sums.pop() != Some(0.0) {
        return Ok(None);
    }
    let (sums, seen) = sums.split_at(counted);
    let evaluation = Evaluation::from_sums(classes, sums)?;
    gather_worst(group, &mut worst)?;
    let scores = seen.iter().zip(&dataset.samples).filter(|(bits, _)| **bits > 0.0);
    let scores = scores.map(|(bits, sample)| (f32::from_bits((bits - 1.0) as u32), sample.label == Some(1))).collect();
    Ok(Some(Evaluated { evaluation, worst, scores }))
}

/// Brings what each rank found to rank 0, by way of the store: a few lines of text.
fn gather_worst(group: &Group, worst: &mut Worst) -> Result<(), Fault> {
    let key = |rank: u32| format!("worst/{rank}");
    if group.rank() != 0 {
        let text = serde_json::to_vec(worst).expect("plain data");
        group.set(&key(group.rank()), &text)?;
    }
    // Everybody has written; and nobody writes again before rank 0 has read.
    group.barrier()?;
    if group.rank() == 0 {
        for rank in 1..group.world_size() {
            let text = group.get(&key(rank), WAIT)?;
            worst.merge(serde_json::from_slice(&text).expect("written by the same program"));
        }
    }
    group.barrier()?;
    Ok(())
}
