//! The course of a training, epoch by epoch and step by step, from where a checkpoint left it.

use std::time::{Duration, Instant};

use crds::contract::{Cause, Progress};
use crds::training_job::CheckpointInterval;
use tch::{Kind, Tensor};

use super::control::Control;
use super::evaluate::{Evaluated, evaluate};
use super::position::{Best, Position, Sums};
use super::replica::Replica;
use super::setup::Setup;
use crate::checkpoint::{Checkpoint, Clock, Policy, Writer};
use crate::data::{self, Failures, Loader, Request, default_threads};
use crate::ddp::Group;
use crate::fault::Fault;
use crate::folder::Folder;
use crate::metrics::Epoch;
use crate::place::Place;
use crate::progress::{Meter, ProgressHandle};
use crate::zoo::host_copy;

/// All that the course of a training works with.
pub(super) struct Course<'g> {
    pub(super) setup: &'g Setup,
    pub(super) place: &'g Place,
    pub(super) group: &'g Group,
    pub(super) replica: Replica<'g>,
    pub(super) control: Control,
    pub(super) position: Position,
    /// Weights of the best epoch; on rank 0 alone.
    pub(super) best: Vec<(String, Tensor)>,
    /// Rank 0's writer of checkpoints.
    pub(super) writer: Option<Writer<Position>>,
    pub(super) policy: Policy,
    pub(super) saved: Clock,
    pub(super) progress: Option<ProgressHandle>,
    pub(super) meter: Meter,
}

/// Rank 0's writer, and when it is to write.
pub(super) fn checkpointing(
    folder: Option<&Folder>,
    interval: CheckpointInterval,
    keep: u32,
) -> (Option<Writer<Position>>, Policy) {
    let policy = match interval {
        CheckpointInterval::Steps(steps) => Policy::EverySteps(u64::from(steps)),
        CheckpointInterval::Seconds(seconds) => Policy::Every(Duration::from_secs(u64::from(seconds))),
    };
    (folder.map(|folder| Writer::start(folder.clone(), keep as usize)), policy)
}

impl Course<'_> {
    /// Trains to the end.
    ///
    /// # Errors
    /// [`Cause::Preempted`] after a signal, with a checkpoint committed; whatever else can go wrong.
    pub(super) fn run(&mut self) -> Result<(), Fault> {
        let epochs = self.setup.recipe.training.epochs;
        while self.position.epoch < epochs {
            self.epoch()?;
        }
        if let Some(writer) = &mut self.writer {
            writer.wait()?;
        }
        Ok(())
    }

    fn epoch(&mut self) -> Result<(), Fault> {
        let started = Instant::now();
        let seconds_before = self.position.seconds;
        self.steps(started)?;
        let trained = seconds_before + started.elapsed().as_secs_f64();
        self.position.seconds = trained;
        let sums = self.shared_sums()?;
        self.report("Validating", None);
        let evaluated = self.validate()?;
        let position = &mut self.position;
        let epoch = position.epoch;
        position.history.push(Epoch {
            epoch: epoch + 1,
            steps: position.step,
            learning_rate: self.setup.schedule.rate(position.step.saturating_sub(1)),
            train_loss: sums.mean_loss(),
            train_accuracy: Some(sums.accuracy()),
            validation_loss: evaluated.as_ref().and_then(|evaluated| evaluated.evaluation.loss()),
            validation_accuracy: evaluated.as_ref().and_then(|evaluated| evaluated.evaluation.accuracy()),
            images_per_second: sums.images / trained.max(1e-9),
            seconds: seconds_before + started.elapsed().as_secs_f64(),
        });
        position.epoch += 1;
        position.step_in_epoch = 0;
        position.samples_in_epoch = 0;
        position.sums = Sums::default();
        position.seconds = 0.0;
        self.keep_if_best(epoch, evaluated.as_ref());
        if let Some(last) = self.position.history.epochs.last() {
            tracing::info!(
                epoch = last.epoch,
                train_loss = last.train_loss,
                validation_loss = last.validation_loss,
                validation_accuracy = last.validation_accuracy,
                images_per_second = last.images_per_second,
                "epoch done"
            );
        }
        Ok(())
    }

    /// The steps of the epoch that are left.
    fn steps(&mut self, started: Instant) -> Result<(), Fault> {
        let (setup, rank) = (self.setup, self.place.rank as usize);
        let epoch = u64::from(self.position.epoch);
        let first = self.position.step_in_epoch;
        let steps = setup.sampler.steps_per_epoch();
        if first >= steps {
            return Ok(());
        }
        let requests = setup.sampler.batches(epoch, first, rank).map(move |samples| Request { epoch, samples });
        let mut loader = Loader::start(setup.training.clone(), requests, self.loading())?;
        let seconds_before = self.position.seconds;
        for _ in first..steps {
            let batch = loader.next().expect("the sampler has as many batches as steps")?;
            for (_, error) in &batch.failures {
                tracing::warn!(%error, "left out an image");
            }
            let due = self.save_is_due();
            self.control.prepare(self.group, due)?;
            self.seed_step();
            let rate = setup.schedule.rate(self.position.step);
            let (replica, control) = (&mut self.replica, &self.control);
            let stepped = replica.step(&batch, rate, || control.orders().stop);
            let Some(sums) = stepped.map_err(|fault| fault.at_step(self.position.step))? else {
                self.save()?;
                return Err(self.stopped()?);
            };
            loader.recycle(batch);
            let position = &mut self.position;
            position.sums.add(sums);
            position.step += 1;
            position.step_in_epoch += 1;
            position.samples_in_epoch =
                (position.step_in_epoch * setup.sampler.global_batch()).min(setup.training.dataset().samples.len());
            position.seconds = seconds_before + started.elapsed().as_secs_f64();
            if !sums.loss.is_finite() {
                return Err(Fault::new(Cause::NotFinite, format!("the loss is {} at step {}", sums.loss, position.step))
                    .hint("lower the learning rate, lengthen the warm-up or set gradientClipNorm; the last checkpoint is kept")
                    .at_step(position.step));
            }
            self.meter.add(position.step, sums.images as u64 * u64::from(self.place.world_size));
            self.report("Training", Some(sums.mean_loss()));
            self.after_step()?;
        }
        Ok(())
    }

    fn loading(&self) -> data::Options {
        let data = &self.setup.recipe.data;
        let threads = match data.loader_threads {
            0 => default_threads(self.place.local_world_size as usize),
            threads => threads as usize,
        };
        let at_most = (data.unreadable_fraction * self.setup.training.dataset().samples.len() as f64) as usize;
        let failures = if at_most == 0 { Failures::Stop } else { Failures::Replace { at_most } };
        data::Options { failures, ..data::Options::new(threads) }
    }

    /// Dropout and its like draw from a generator whose state is a function of the step and the rank, so that a resume
    /// needs no state of it.
    fn seed_step(&self) {
        let seed = u64::from(self.setup.recipe.training.seed);
        let mix = (seed << 40) ^ (self.position.step << 12) ^ u64::from(self.place.rank);
        tch::manual_seed(mix as i64);
    }

    /// Whether rank 0 wants a checkpoint after the next step. One that is due by time waits until the one before is
    /// written; one that is due by steps is written at its step.
    fn save_is_due(&self) -> bool {
        let next = Clock { step: self.position.step + 1, now: Instant::now() };
        let may_wait = matches!(self.policy, Policy::Every(_));
        let busy = self.writer.as_ref().is_none_or(Writer::is_busy);
        self.place.is_first() && !(busy && may_wait) && self.policy.is_due(self.saved, next)
    }

    fn after_step(&mut self) -> Result<(), Fault> {
        if let Some(step) = self.writer.as_mut().map_or(Ok(None), Writer::poll)? {
            self.tell_saved(step);
        }
        if self.control.orders().save {
            self.save()?;
        }
        Ok(())
    }

    /// Adds up this epoch's sums over all ranks. From then on rank 0 holds them for all.
    fn shared_sums(&mut self) -> Result<Sums, Fault> {
        let own = self.position.sums;
        let sums = Tensor::from_slice(&[own.loss, own.correct, own.images]).to_device(self.setup.device);
        self.group.all_reduce_sum(&sums)?;
        let all: Vec<f64> = Vec::try_from(&sums)?;
        let all = Sums { loss: all[0], correct: all[1], images: all[2] };
        self.position.sums = if self.place.is_first() { all } else { Sums::default() };
        Ok(all)
    }

    /// Hands a checkpoint to the writer. All ranks take part in the sums.
    fn save(&mut self) -> Result<(), Fault> {
        self.shared_sums()?;
        let (step, in_epoch) = (self.position.step, self.position.step_in_epoch);
        // Step 0 has no checkpoint to begin with, and the end of an epoch is more than its last step.
        if self.saved.step == step && step > 0 && in_epoch < self.setup.sampler.steps_per_epoch() {
            return Ok(());
        }
        self.saved = Clock { step: self.position.step, now: Instant::now() };
        if self.writer.is_none() {
            return Ok(());
        }
        let mut tensors = Vec::new();
        let section = |tensors: &mut Vec<(String, Tensor)>, name: &str, content: Vec<(String, Tensor)>| {
            tensors.extend(content.into_iter().map(|(tensor_name, tensor)| (format!("{name}/{tensor_name}"), tensor)));
        };
        section(&mut tensors, "model", self.replica.model.state().snapshot());
        section(&mut tensors, "optimizer", self.replica.optimizer.snapshot());
        section(&mut tensors, "best", self.best.iter().map(|(name, t)| (name.clone(), t.shallow_clone())).collect());
        let checkpoint = Checkpoint { step: self.position.step, position: self.position.clone(), tensors };
        let finished = self.writer.as_mut().map_or(Ok(None), |writer| writer.submit(checkpoint))?;
        if let Some(step) = finished {
            self.tell_saved(step);
        }
        Ok(())
    }

    fn tell_saved(&self, step: u64) {
        if let Some(progress) = &self.progress {
            progress.update(|progress| progress.checkpoint_step = Some(step));
        }
        tracing::info!(step, "checkpoint committed");
    }

    /// The end after a signal: the checkpoint is on its way, and no rank leaves before it is committed.
    fn stopped(&mut self) -> Result<Fault, Fault> {
        if let Some(step) = self.writer.as_mut().map_or(Ok(None), Writer::wait)? {
            self.tell_saved(step);
        }
        self.group.barrier()?;
        let (step, total) = (self.position.step, self.setup.total_steps());
        let message = format!("stopped at step {step} of {total} with a checkpoint committed");
        Ok(Fault::new(Cause::Preempted, message).at_step(step))
    }

    /// Validates the model as it is now; none without validation images.
    fn validate(&mut self) -> Result<Option<Evaluated>, Fault> {
        let Some(images) = &self.setup.validation else { return Ok(None) };
        self.replica.ddp.share_buffers()?;
        let control = &self.control;
        let threads = self.loading().threads;
        let evaluated = evaluate(&self.replica, self.group, images, threads, || control.is_signalled())?;
        match evaluated {
            Some(evaluated) => Ok(Some(evaluated)),
            // The epoch's steps are done; the next attempt begins with this validation.
            None => {
                self.save()?;
                Err(self.stopped()?)
            }
        }
    }

    fn keep_if_best(&mut self, epoch: u32, evaluated: Option<&Evaluated>) {
        let Some(evaluation) = evaluated.map(|evaluated| &evaluated.evaluation) else { return };
        let (Some(accuracy), Some(loss)) = (evaluation.accuracy(), evaluation.loss()) else { return };
        let this = Best { epoch, accuracy, loss };
        if this.beats(self.position.best) {
            self.position.best = Some(this);
            if self.place.is_first() {
                let entries = self.replica.model.state().entries();
                self.best = entries.iter().map(|entry| (entry.name.clone(), host_copy(&entry.tensor))).collect();
            }
        }
        if let Some(progress) = &self.progress {
            progress.update(|progress| progress.metric = Some(accuracy));
        }
    }

    fn report(&self, stage: &str, loss: Option<f64>) {
        let Some(handle) = &self.progress else { return };
        let (position, setup) = (&self.position, self.setup);
        let (rate, left) = (self.meter.images_per_second(), self.meter.eta_seconds(position.step, setup.total_steps()));
        handle.update(|progress: &mut Progress| {
            stage.clone_into(&mut progress.stage);
            progress.epoch = (position.epoch + 1).min(setup.recipe.training.epochs);
            progress.epochs = setup.recipe.training.epochs;
            progress.step = position.step;
            progress.total_steps = setup.total_steps();
            if let Some(loss) = loss {
                // Smoothed over some ten steps, so that it can be read.
                let before = progress.loss.unwrap_or(loss);
                progress.loss = Some(before + (loss - before) * 0.2);
            }
            progress.images_per_second = rate;
            progress.eta_seconds = left;
        });
    }
}

/// Makes the reducer arrange its buckets as it had them when the checkpoint was written, by a pass without effect. With two
/// ranks the order of a sum doesn't matter; with more, the parts in which rings add up do.
pub(super) fn prime(replica: &mut Replica<'_>, group: &Group, image_size: u32) -> Result<(), Fault> {
    if group.world_size() <= 2 {
        return Ok(());
    }
    let before = replica.model.state().snapshot();
    let images =
        Tensor::zeros([2, 3, i64::from(image_size), i64::from(image_size)], (Kind::Float, replica.input.device()));
    let images = crate::torch::to_channels_last(&images)?;
    let model = &replica.model;
    let logits = replica.ddp.forward(crate::ddp::GradSync::Average, || model.forward(&images, true))?;
    replica.ddp.backward(&logits.f_sum(Kind::Float)?)?;
    replica.ddp.clear_gradients()?;
    let before = before.into_iter().collect();
    replica.model.state_mut().restore(&before)?;
    Ok(())
}
