//! A model over labelled images on all ranks: each image on one of them, figures added up.

use std::ops::Range;
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
use crate::metrics::{Evaluation, Scores, Worst};

/// Most wrong images that are kept for the report.
const WORST: usize = 24;
/// Most probabilities that are kept: 64 MiB on each rank while they are added up.
const MOST_SCORES: usize = 1 << 23;
/// How long rank 0 waits for what another rank found.
const WAIT: Duration = Duration::from_secs(60);

/// What an evaluation found, the same on every rank but for `worst`, which rank 0 alone has for all.
pub(super) struct Evaluated {
    pub(super) evaluation: Evaluation,
    pub(super) worst: Worst,
    /// If asked for, and there is room for it: of each image that was seen, the probability of each class and whether it is of
    /// it. Of many images the second of two classes alone, or none.
    pub(super) scores: Vec<Scores>,
}

/// How to evaluate.
#[derive(Clone, Copy, Debug)]
pub(super) struct EvaluationOptions {
    /// Threads that load images.
    pub(super) threads: usize,
    /// Images that may be unreadable.
    pub(super) unreadable: usize,
    /// Whether to keep the probabilities of each image.
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
    let kept = if options.scores { kept_classes(dataset.samples.len(), classes) } else { 0..0 };
    // The bits of each image's probabilities plus one, and 0 for those that this rank has not seen: their sum over the ranks
    // is exact.
    let mut seen = vec![0.0; dataset.samples.len() * kept.len()];
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
                let at = batch.indices[place] * kept.len();
                for (seen, probability) in seen[at..at + kept.len()].iter_mut().zip(&row[kept.clone()]) {
                    *seen = f64::from(probability.to_bits()) + 1.0;
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
    let score = |row: &[f64], class: usize, label: Option<u32>| {
        let bits = row[class - kept.start];
        (bits > 0.0).then(|| (f32::from_bits((bits - 1.0) as u32), label == Some(class as u32)))
    };
    let of_class = |class: usize| -> Scores {
        let rows = seen.chunks_exact(kept.len().max(1)).zip(&dataset.samples);
        rows.filter_map(|(row, sample)| score(row, class, sample.label)).collect()
    };
    let scores = (0..classes).map(|class| if kept.contains(&class) { of_class(class) } else { Vec::new() }).collect();
    Ok(Some(Evaluated { evaluation, worst, scores }))
}

/// The classes whose probabilities are kept of each of so many images.
fn kept_classes(images: usize, classes: usize) -> Range<usize> {
    match classes {
        _ if images.saturating_mul(classes) <= MOST_SCORES => 0..classes,
        2 => 1..2,
        _ => 0..0,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_kept_while_there_is_room_and_of_two_classes_always() {
        assert_eq!(kept_classes(50_000, 100), 0..100);
        assert_eq!(kept_classes(50_000, 1000), 0..0);
        assert_eq!((kept_classes(1 << 22, 2), kept_classes(1 << 23, 2)), (0..2, 1..2));
    }
}
