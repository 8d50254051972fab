//! Trains a model: the work of one process of a TrainingJob.
//!
//! ```text
//!  setup ─► resume from the newest checkpoint ─► course: epochs of steps ─► results: the model folder
//!             (position)                          (replica, launch, tally, ahead, control; judging, saving)
//! ```

mod ahead;
mod control;
mod course;
mod evaluate;
mod gpu_use;
mod judging;
mod launch;
mod left_out;
mod parent;
mod position;
mod provenance;
mod recipe;
mod replica;
mod report;
mod results;
mod saving;
mod setup;
mod tally;

use std::path::Path;
use std::time::{Duration, Instant};

use crds::TrainingJobSpec;
use crds::contract::{Assignment, Cause, DIAGNOSTICS, Diagnostic, JobResult};
use tch::Device;

use self::ahead::Ahead;
use self::control::Control;
use self::course::{Course, prime};
use self::launch::Launch;
use self::left_out::LeftOut;
use self::position::Position;
use self::replica::Replica;
use self::saving::checkpointing;
use self::setup::Setup;
use self::tally::Tally;
use crate::checkpoint::{self, Checkpoint, Clock, Newest, section};
use crate::data::Finding;
use crate::ddp::{Ddp, Group};
use crate::fault::Fault;
use crate::folder::{Folder, Owner};
use crate::input::Input;
use crate::metrics::Stopwatch;
use crate::optim::{DeviceScale, Ema, Optimizer};
use crate::place::Place;
use crate::progress::{Meter, ProgressHandle};
use crate::storage::path_of;
use crate::tensorboard::{Events, Publisher};
use crate::torch::driver::GpuInfo;
use crate::torch::{Lane, allow_only_deterministic, compute_beside};

/// How long a rank waits for rank 0's list of the data.
const LISTING: Duration = Duration::from_secs(600);

/// Trains as one of the job's processes on `device`, one of this pod's `gpus` or a CPU. Rank 0 returns what the job leaves behind.
///
/// # Errors
/// Whatever ends a training early, with its cause; [`Cause::Preempted`] after SIGTERM, with a checkpoint committed.
pub fn run(
    job: &Assignment<TrainingJobSpec>,
    place: &Place,
    device: Device,
    gpus: &[GpuInfo],
    progress: Option<ProgressHandle>,
) -> Result<Option<JobResult>, Fault> {
    let output = path_of(&job.spec.output.uri)?;
    let setup = Setup::new(job, place, device, gpus)?;
    if setup.recipe.training.deterministic {
        allow_only_deterministic()?;
    }
    // Only now: a job that can't start leaves the folder to one that can.
    let folder = match place.is_first() {
        true => Some(Folder::claim(&output, &owner(job))?),
        false => None,
    };
    let launch = Launch::of(&setup.recipe.training, device, place.world_size);
    if launch.may_record() {
        compute_beside(device)?;
    }
    let timeout = Duration::from_secs(u64::from(setup.recipe.training.collective_timeout_seconds));
    let group = Group::join(&place.rendezvous(device, timeout))?;
    let data_digest = agree_on_data(&setup, &group)?;
    let Newest { checkpoint, passed_over } = agree_on_checkpoint(&output, &group)?;
    let mut model = setup.model()?;
    if setup.recipe.training.sync_batch_norm && group.world_size() > 1 {
        model.synchronise_norms(&group.norm_ranks()?);
    }
    let parameters = model.state().trainable();
    let mut optimizer = Optimizer::new(setup.recipe.training.optimizer.settings(), parameters);
    if launch.may_record() {
        optimizer.keep_rate_on_device()?;
    } else if let Some(told) = launch.told() {
        tracing::info!("steps go to the GPU {told}");
    }
    let mut ema = setup.ema(&model);
    let (mut position, best) = match &checkpoint {
        Some(checkpoint) => resume(checkpoint, &setup, &data_digest, &mut model, &mut optimizer, ema.as_mut(), place)?,
        None => (Position { data_digest, ..Position::default() }, Vec::new()),
    };
    position.basis = Some(setup.basis());
    if place.is_first() {
        let mut found = if checkpoint.is_none() { setup.look_at_data()? } else { Vec::new() };
        found.extend(lost_checkpoints(&passed_over, checkpoint.as_ref().map(|checkpoint| checkpoint.step)));
        for Finding { check, text } in &found {
            tracing::warn!(check, "{text}");
        }
        position.findings.append(&mut found);
    }
    if place.is_first() {
        setup.introduce(&model, place);
    }
    if let Some(progress) = &progress {
        progress.update(|progress| progress.diagnostics = diagnostics(&position.findings));
    }
    let control = Control::new(device, place.world_size)?;
    let mut buffers = model.state().buffers();
    buffers.push(control.buffer());
    let ddp = Ddp::new(&group, &model.state().trainable(), &buffers, setup.ddp_options())?;
    let input = Input::new(&setup.preprocessing, device);
    let (criterion, classes) = (setup.criterion(), setup.classes().len() as i64);
    let scaler = setup.scaler().map(|fresh| position.scaler.unwrap_or(fresh));
    // A GPU decides by itself. A moving average would have to know of it.
    let decides = device != Device::Cpu && ema.is_none() && optimizer.may_be_told_by_device();
    let on_device = scaler.as_ref().filter(|_| decides);
    let device_scale = on_device.map(|scaler| DeviceScale::new(scaler, optimizer.steps(), device)).transpose()?;
    let watch = Stopwatch::new(position.phases);
    let mut replica = Replica {
        model,
        ddp,
        optimizer,
        input,
        settings: setup.step,
        criterion,
        classes,
        scaler,
        device_scale,
        ema,
        watch,
        launch,
    };
    if position.step > 0 {
        prime(&mut replica, &group, setup.preprocessing.crop_size)?;
    }
    let saving = &job.spec.output.checkpoint;
    let patience = if place.world_size > 1 { timeout } else { Duration::MAX };
    let (writer, policy) = checkpointing(folder.as_ref(), saving.interval(), saving.keep, patience);
    let saved = Clock { step: position.step, now: Instant::now() };
    let meter = Meter::new(position.step);
    let events = folder.clone().map(|folder| {
        let (now, total) = (jiff::Timestamp::now(), setup.total_steps());
        Publisher::start(folder, Events::begin(&job.name, job.attempt, position.step, total, now))
    });
    let mut course = Course {
        setup: &setup,
        place,
        group: &group,
        replica,
        control,
        position,
        left_out: LeftOut::default(),
        ahead: Ahead::default(),
        tally: Tally::new(device),
        best,
        outbound: Lane::new(device)?,
        writer,
        policy,
        saved,
        progress,
        meter,
        events,
    };
    course.run()?;
    results::leave_behind(course, job, folder.as_ref())
}

/// The job as the owner of its output.
pub(crate) fn owner<Spec>(job: &Assignment<Spec>) -> Owner {
    Owner {
        uid: job.uid.clone(),
        name: format!("{} {}/{}", job.kind, job.namespace, job.name),
        attempt: job.attempt,
        created: job.created,
    }
}

/// What the status tells of the findings; the report has them whole.
fn diagnostics(findings: &[Finding]) -> Vec<Diagnostic> {
    findings.iter().take(DIAGNOSTICS).map(|Finding { check, text }| Diagnostic::new(check, text)).collect()
}

/// What is told of checkpoints that were passed over for that of a step, or for none.
fn lost_checkpoints(passed_over: &[String], step: Option<u64>) -> Option<Finding> {
    let newest = passed_over.first()?;
    let went_on = match step {
        Some(step) => format!("the training goes on from step {step}, before it"),
        None => "there is none before it: the training begins anew".to_owned(),
    };
    let more = match passed_over.len() {
        1 => String::new(),
        count => format!(" ({count} checkpoints in all)"),
    };
    Some(Finding { check: "checkpoint".to_owned(), text: format!("{newest}{more}; {went_on}") })
}

/// Makes sure that all ranks have listed the same images; returns the digest of the list.
fn agree_on_data(setup: &Setup, group: &Group) -> Result<String, Fault> {
    const KEY: &str = "data";
    let digest = setup.training.dataset().digest();
    if group.rank() == 0 {
        group.set(KEY, digest.as_bytes())?;
    } else if group.get(KEY, LISTING)? != digest.as_bytes() {
        return Err(Fault::new(Cause::BadData, "this rank sees other training images than rank 0")
            .hint("give all nodes the same data, and don't change it while a job starts"));
    }
    Ok(digest)
}

/// The checkpoint to go on from: that which rank 0 finds the newest, on every rank, whatever is committed meanwhile.
fn agree_on_checkpoint(output: &Path, group: &Group) -> Result<Newest<Position>, Fault> {
    const KEY: &str = "checkpoint";
    if group.rank() == 0 {
        let newest = checkpoint::newest::<Position>(output)?;
        let step = newest.checkpoint.as_ref().map_or(String::new(), |checkpoint| checkpoint.step.to_string());
        group.set(KEY, step.as_bytes())?;
        return Ok(newest);
    }
    let step = String::from_utf8(group.get(KEY, LISTING)?).unwrap_or_default();
    let checkpoint = step.parse().ok().map(|step| checkpoint::of_step(output, step)).transpose()?;
    Ok(Newest { checkpoint, passed_over: Vec::new() })
}

/// Takes a checkpoint's tensors, and finds the place from which its epoch goes on at this number of ranks.
fn resume(
    checkpoint: &Checkpoint<Position>,
    setup: &Setup,
    data_digest: &str,
    model: &mut crate::zoo::Model,
    optimizer: &mut Optimizer,
    ema: Option<&mut Ema>,
    place: &Place,
) -> Result<(Position, Vec<(String, tch::Tensor)>), Fault> {
    let mut position = checkpoint.position.clone();
    if position.data_digest != data_digest {
        return Err(Fault::new(Cause::BadData, "the training images are not those of the checkpoint")
            .hint("restore the data, or train on the new data under another job and output.uri, with retrainFrom"));
    }
    setup.basis().goes_on(position.basis.as_ref())?;
    model.state_mut().restore(&section(&checkpoint.tensors, "model/"))?;
    let lacks = |what: &str, tensor: String| {
        Fault::new(Cause::BadSpec, format!("the checkpoint has no {what} {tensor} of this shape"))
            .hint("the optimizer or the model was changed since: start under another output.uri")
    };
    let updates = position.updates.unwrap_or(checkpoint.step);
    optimizer
        .restore(&section(&checkpoint.tensors, "optimizer/"), updates)
        .map_err(|tensor| lacks("optimizer state", tensor))?;
    if let Some(ema) = ema {
        ema.restore(&section(&checkpoint.tensors, "ema/")).map_err(|tensor| lacks("moving average", tensor))?;
    }
    let steps = setup.sampler.steps_per_epoch();
    let at_end = position.samples_in_epoch >= setup.training.dataset().samples.len();
    position.step_in_epoch = if at_end { steps } else { setup.sampler.step_after(position.samples_in_epoch) };
    position.step = u64::from(position.epoch) * steps as u64 + position.step_in_epoch as u64;
    if !place.is_first() {
        position.sums = position::Sums::default();
        position.left_out.clear();
    }
    tracing::info!(step = position.step, epoch = position.epoch + 1, "resumed from a checkpoint");
    let best = if place.is_first() { section(&checkpoint.tensors, "best/").into_iter().collect() } else { Vec::new() };
    Ok((position, best))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_that_were_passed_over_are_told_with_where_it_goes_on() {
        let told = |passed_over: &[&str], step| {
            let passed_over: Vec<String> = passed_over.iter().map(|&text| text.to_owned()).collect();
            lost_checkpoints(&passed_over, step).map(|finding| finding.text)
        };
        assert_eq!(told(&[], Some(10)), None);
        assert_eq!(
            told(&["a is not whole"], Some(10)).unwrap(),
            "a is not whole; the training goes on from step 10, before it"
        );
        let text = "b is not whole (2 checkpoints in all); there is none before it: the training begins anew";
        assert_eq!(told(&["b is not whole", "a is not whole"], None).unwrap(), text);
    }
}
