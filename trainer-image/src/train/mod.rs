//! Trains a model: the work of one process of a TrainingJob.
//!
//! ```text
//!  setup ─► resume from the newest checkpoint ─► course: epochs of steps ─► results: the model folder
//!             (position)                          (replica, control, evaluate)
//! ```

mod control;
mod course;
mod evaluate;
mod position;
mod replica;
mod report;
mod results;
mod setup;

use std::time::{Duration, Instant};

use crds::TrainingJobSpec;
use crds::contract::{Assignment, Cause, JobResult};
use tch::Device;

use self::control::Control;
use self::course::{Course, checkpointing, prime};
use self::position::Position;
use self::replica::Replica;
use self::setup::Setup;
pub(crate) use self::setup::local_path;
use crate::checkpoint::{self, Checkpoint, Clock, section};
use crate::ddp::{Ddp, DdpOptions, Group};
use crate::fault::Fault;
use crate::folder::{Folder, Owner};
use crate::input::Input;
use crate::optim::Optimizer;
use crate::place::Place;
use crate::progress::{Meter, ProgressHandle};

/// How long a rank waits for rank 0's list of the data.
const LISTING: Duration = Duration::from_secs(600);

/// Trains as one of the job's processes. Rank 0 returns what the job leaves behind.
///
/// # Errors
/// Whatever ends a training early, with its cause; [`Cause::Preempted`] after SIGTERM, with a checkpoint committed.
pub fn run(
    job: &Assignment<TrainingJobSpec>,
    place: &Place,
    device: Device,
    progress: Option<ProgressHandle>,
) -> Result<Option<JobResult>, Fault> {
    let output = local_path(&job.spec.output.uri)?;
    let setup = Setup::new(job, place, device)?;
    // Only now: a job that can't start leaves the folder to one that can.
    let folder = match place.is_first() {
        true => Some(Folder::claim(&output, &owner(job))?),
        false => None,
    };
    if place.is_first() {
        for note in &setup.notes {
            tracing::warn!("{note}");
        }
    }
    let group = Group::join(&place.rendezvous(device))?;
    let data_digest = agree_on_data(&setup, &group)?;
    let checkpoint = checkpoint::newest::<Position>(&output)?;
    let mut model = setup.model()?;
    let parameters = model.state().trainable();
    let mut optimizer = Optimizer::new(setup.recipe.training.optimizer.settings(), parameters)
        .map_err(|error| Fault::new(Cause::BadSpec, error.to_string()))?;
    let (position, best) = match &checkpoint {
        Some(checkpoint) => resume(checkpoint, &setup, &data_digest, &mut model, &mut optimizer, place)?,
        None => (Position { data_digest, ..Position::default() }, Vec::new()),
    };
    let control = Control::new(device)?;
    let mut buffers = model.state().buffers();
    buffers.push(control.buffer());
    let ddp = Ddp::new(&group, &model.state().trainable(), &buffers, DdpOptions::default())?;
    let input = Input::new(&setup.preprocessing, device);
    let mut replica = Replica { model, ddp, optimizer, input, settings: setup.step };
    if position.step > 0 {
        prime(&mut replica, &group, setup.preprocessing.crop_size)?;
    }
    let saving = &job.spec.output.checkpoint;
    let (writer, policy) = checkpointing(folder.as_ref(), saving.interval(), saving.keep);
    let saved = Clock { step: position.step, now: Instant::now() };
    let meter = Meter::new(position.step);
    let mut course = Course {
        setup: &setup,
        place,
        group: &group,
        replica,
        control,
        position,
        best,
        writer,
        policy,
        saved,
        progress,
        meter,
    };
    course.run()?;
    results::leave_behind(course, job, folder.as_ref())
}

/// The job as the owner of its output.
pub(crate) fn owner<Spec>(job: &Assignment<Spec>) -> Owner {
    Owner { uid: job.uid.clone(), name: format!("{} {}/{}", job.kind, job.namespace, job.name), attempt: job.attempt }
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

/// Takes a checkpoint's tensors, and finds the place from which its epoch goes on at this number of ranks.
fn resume(
    checkpoint: &Checkpoint<Position>,
    setup: &Setup,
    data_digest: &str,
    model: &mut crate::zoo::Model,
    optimizer: &mut Optimizer,
    place: &Place,
) -> Result<(Position, Vec<(String, tch::Tensor)>), Fault> {
    let mut position = checkpoint.position.clone();
    if position.data_digest != data_digest {
        return Err(Fault::new(Cause::BadData, "the training images are not those of the checkpoint")
            .hint("restore the data, or train on the new data under another job and output.uri, with retrainFrom"));
    }
    model.state_mut().restore(&section(&checkpoint.tensors, "model/"))?;
    optimizer.restore(&section(&checkpoint.tensors, "optimizer/"), checkpoint.step).map_err(|tensor| {
        Fault::new(Cause::BadSpec, format!("the checkpoint has no optimizer state {tensor} of this shape"))
            .hint("the optimizer or the model was changed since: start under another output.uri")
    })?;
    let steps = setup.sampler.steps_per_epoch();
    let at_end = position.samples_in_epoch >= setup.training.dataset().samples.len();
    position.step_in_epoch = if at_end { steps } else { setup.sampler.step_after(position.samples_in_epoch) };
    position.step = u64::from(position.epoch) * steps as u64 + position.step_in_epoch as u64;
    if !place.is_first() {
        position.sums = position::Sums::default();
    }
    tracing::info!(step = position.step, epoch = position.epoch + 1, "resumed from a checkpoint");
    let best = if place.is_first() { section(&checkpoint.tensors, "best/").into_iter().collect() } else { Vec::new() };
    Ok((position, best))
}
