//! A model over labelled images on all ranks: each image on one of them, figures added up.

use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Tensor};

use super::replica::Replica;
use crate::data::{Images, Loader, Options, Request, evaluation_part};
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
}

/// Evaluates the replica. None if `stop` said so on any rank before all was seen.
pub(super) fn evaluate(
    replica: &Replica<'_>,
    group: &Group,
    images: &Arc<Images>,
    threads: usize,
    stop: impl Fn() -> bool,
) -> Result<Option<Evaluated>, Fault> {
    let dataset = images.dataset();
    let classes = dataset.classes.len();
    let part = evaluation_part(dataset.samples.len(), group.rank() as usize, group.world_size() as usize);
    let batch_size = replica.settings.batch_size;
    let requests = part
        .clone()
        .step_by(batch_size)
        .map(move |first| Request { epoch: 0, samples: (first..(first + batch_size).min(part.end)).collect() });
    let mut loader = Loader::start(images.clone(), requests, Options::new(threads))?;
    let mut evaluation = Evaluation::new(classes);
    let mut worst = Worst::new(WORST);
    let whole = over_batches(
        &replica.model,
        &replica.input,
        replica.settings.precision,
        &mut loader,
        |batch, probabilities| {
            for (place, row) in probabilities.chunks_exact(classes).enumerate() {
                let label = batch.labels[place] as usize;
                evaluation.add(label, row)?;
                worst.offer(label, row, || dataset.samples[batch.indices[place]].path.to_string_lossy().into_owned());
            }
            Ok(!stop())
        },
    )?;
    let mut sums = evaluation.sums();
    sums.push(if whole { 0.0 } else { 1.0 });
    // NCCL sums on the GPU, Gloo on the host: the tensor goes where the model is.
    let shared = Tensor::from_slice(&sums).to_device(replica.input.device());
    group.all_reduce_sum(&shared)?;
    let mut sums: Vec<f64> = Vec::try_from(&shared.to_device(Device::Cpu))?;
    if sums.pop() != Some(0.0) {
        return Ok(None);
    }
    let evaluation = Evaluation::from_sums(classes, &sums)?;
    gather_worst(group, &mut worst)?;
    Ok(Some(Evaluated { evaluation, worst }))
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
