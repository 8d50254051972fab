//! The course of a training, epoch by epoch and step by step, from where a checkpoint left it.

use std::time::Instant;

use crds::contract::{Cause, Progress};
use jiff::Timestamp;
use tch::{Kind, Tensor};

use super::ahead::Ahead;
use super::control::Control;
use super::left_out::LeftOut;
use super::position::{Position, Sums};
use super::replica::Replica;
use super::saving::WhenBusy;
use super::setup::Setup;
use super::tally::{Read, Step, Tally};
use crate::causes::DIVERGED;
use crate::checkpoint::{Clock, Policy, Writer};
use crate::ddp::Group;
use crate::fault::Fault;
use crate::metrics::{Epoch, Phase};
use crate::place::Place;
use crate::progress::{Meter, ProgressHandle};
use crate::tensorboard::Publisher;
use crate::torch::Lane;

/// All that the course of a training works with.
pub(super) struct Course<'g> {
    pub(super) setup: &'g Setup,
    pub(super) place: &'g Place,
    pub(super) group: &'g Group,
    pub(super) replica: Replica<'g>,
    pub(super) control: Control,
    pub(super) position: Position,
    pub(super) left_out: LeftOut,
    /// Images that are loaded ahead.
    pub(super) ahead: Ahead,
    /// Sums that are still on the device.
    pub(super) tally: Tally,
    /// Weights of the best epoch; on rank 0 alone.
    pub(super) best: Vec<(String, Tensor)>,
    /// On which checkpoints leave the device.
    pub(super) outbound: Lane,
    /// Rank 0's writer of checkpoints.
    pub(super) writer: Option<Writer<Position>>,
    pub(super) policy: Policy,
    pub(super) saved: Clock,
    pub(super) progress: Option<ProgressHandle>,
    pub(super) meter: Meter,
    /// Rank 0's events for TensorBoard.
    pub(super) events: Option<Publisher>,
}

impl Course<'_> {
    /// Trains to the end, and hands a checkpoint of it to the writer: what comes then may take long, and be stopped.
    ///
    /// # Errors
    /// [`Cause::Preempted`] after a signal, with a checkpoint committed; whatever else can go wrong.
    pub(super) fn run(&mut self) -> Result<(), Fault> {
        let epochs = self.setup.recipe.training.epochs;
        while self.position.epoch < epochs && !self.is_stopped_early() {
            self.epoch()?;
        }
        self.ahead = Ahead::default();
        if self.position.epoch < epochs {
            tracing::info!(epoch = self.position.epoch, of = epochs, "stopped early: it no longer gets better");
        }
        self.save(WhenBusy::Wait)
    }

    /// Whether early stopping has seen enough. A function of what checkpoints keep, so that a resume finds the same.
    fn is_stopped_early(&self) -> bool {
        let settings = &self.setup.recipe.training.early_stopping;
        settings.as_ref().is_some_and(|settings| self.position.patience.is_over(settings))
    }

    fn epoch(&mut self) -> Result<(), Fault> {
        let started = Instant::now();
        let seconds_before = self.position.seconds;
        let given = self.steps(started)?;
        let trained = seconds_before + given + started.elapsed().as_secs_f64();
        self.position.seconds = trained;
        let sums = self.shared_sums()?;
        self.report("Validating", None);
        self.replica.watch.start();
        let figures = self.validate().map_err(|fault| fault.at_step(self.position.step))?;
        self.replica.watch.lap(Phase::Validation);
        let position = &mut self.position;
        let epoch = position.epoch;
        position.history.push(Epoch {
            epoch: epoch + 1,
            steps: position.step,
            learning_rate: self.setup.schedule.rate(position.step.saturating_sub(1), &position.plateau),
            train_loss: sums.mean_loss(),
            train_accuracy: Some(sums.accuracy()),
            validation_loss: figures.map(|figures| figures.loss),
            validation_accuracy: figures.map(|figures| figures.accuracy),
            images_per_second: sums.images / trained.max(1e-9),
            seconds: seconds_before + started.elapsed().as_secs_f64(),
            phases: Some(self.replica.watch.take()),
        });
        position.epoch += 1;
        position.step_in_epoch = 0;
        position.samples_in_epoch = 0;
        position.sums = Sums::default();
        position.seconds = 0.0;
        if let Some(figures) = figures {
            self.setup.schedule.observe(&mut position.plateau, figures.loss);
            if let Some(settings) = &self.setup.recipe.training.early_stopping {
                position.patience.observe(settings, figures);
            }
        }
        let gradient_bytes = self.gradient_bytes()?;
        if let Some(last) = self.position.history.epochs.last() {
            if let Some(publisher) = &mut self.events {
                publisher.events().epoch(last, Timestamp::now());
                publisher.publish();
            }
            // The figures are those of all ranks: one process of each pod tells them.
            if self.place.local_rank == 0 {
                tracing::info!(
                    epoch = last.epoch,
                    train_loss = last.train_loss,
                    validation_loss = last.validation_loss,
                    validation_accuracy = last.validation_accuracy,
                    images_per_second = last.images_per_second,
                    gradient_bytes,
                    "epoch done"
                );
            }
        }
        Ok(())
    }

    /// The steps of the epoch that are left. Tells how many seconds it would have waited for images that were loaded before.
    fn steps(&mut self, started: Instant) -> Result<f64, Fault> {
        let setup = self.setup;
        let first = self.position.step_in_epoch;
        let steps = setup.sampler.steps_per_epoch();
        if first >= steps {
            return Ok(0.0);
        }
        let mut loader = self.training_images()?;
        let given = loader.head_start().as_secs_f64();
        let seconds_before = self.position.seconds;
        if let Some(publisher) = &mut self.events {
            publisher.events().steps_begin(Timestamp::now());
        }
        for step in first..steps {
            self.replica.watch.start();
            let batch = loader.next().expect("the sampler has as many batches as steps")?;
            self.replica.watch.lap(Phase::Data);
            if steps - step <= loader.prefetch() {
                // All of this epoch's images are on their way: those of its validation are next.
                self.load_validation()?;
            }
            for (_, error) in &batch.failures {
                self.left_out.add(error.to_string());
            }
            let due = self.due();
            self.control.prepare(self.group, due)?;
            self.seed_step();
            let rate = setup.schedule.rate(self.position.step, &self.position.plateau);
            let (replica, control) = (&mut self.replica, &mut self.control);
            let padding = setup.sampler.padding(step, self.place.rank as usize);
            let stepped = replica.step(&batch, padding, rate, self.position.step, || Ok(control.orders()?.stop));
            let Some(sums) = stepped.map_err(|fault| fault.at_step(self.position.step))? else {
                self.save(WhenBusy::Wait)?;
                return Err(self.stopped()?);
            };
            let images = batch.labels.len();
            loader.recycle(batch);
            let position = &mut self.position;
            position.step += 1;
            position.step_in_epoch += 1;
            position.samples_in_epoch =
                (position.step_in_epoch * setup.sampler.global_batch()).min(setup.training.dataset().samples.len());
            position.seconds = seconds_before + started.elapsed().as_secs_f64();
            let step = Step { number: position.step, rate };
            self.tally.add(step, images - padding, &sums).map_err(|fault| fault.at_step(step.number))?;
            self.meter.add(step.number, (images * self.place.world_size as usize) as u64);
            self.read_sums(Read::Due)?;
            if let (Some(progress), bytes @ Some(_)) = (&self.progress, self.gradient_bytes()?) {
                progress.update(|progress| progress.gradient_bytes = bytes);
            }
            self.replica.watch.start();
            self.after_step()?;
            self.replica.watch.lap(Phase::Checkpoint);
        }
        self.ahead.training = Some(loader);
        self.read_sums(Read::All)?;
        Ok(given)
    }

    /// Adds the sums of steps to those of the epoch, and tells of each. All must be read before anything is made of the epoch.
    ///
    /// # Errors
    /// [`Cause::NotFinite`] at the first step whose loss is not.
    pub(super) fn read_sums(&mut self, which: Read) -> Result<(), Fault> {
        while let Some((step, sums, told)) =
            self.tally.next(which).map_err(|fault| fault.at_step(self.position.step))?
        {
            self.replica.watch.lap(Phase::Device);
            self.position.sums.add(sums);
            self.replica.hear(&told).map_err(|fault| fault.at_step(step.number))?;
            if !sums.loss.is_finite() {
                let message = format!("the loss is {} at step {}", sums.loss, step.number);
                return Err(Fault::new(Cause::NotFinite, message).hint(DIVERGED).at_step(step.number));
            }
            let images = sums.images * f64::from(self.place.world_size);
            if let Some(publisher) = &mut self.events {
                publisher.events().step(step.number, sums.mean_loss(), step.rate, images, Timestamp::now());
            }
            self.report("Training", Some(sums.mean_loss()));
        }
        Ok(())
    }

    /// Adds this epoch's sums up once more if a rank has met images since that can't be used, so that rank 0 knows of them.
    pub(super) fn gather_left_out(&mut self) -> Result<(), Fault> {
        self.shared_sums().map(drop)
    }

    /// Dropout and its like draw from a generator whose state is a function of the step and the rank, so that a resume
    /// needs no state of it.
    fn seed_step(&self) {
        let seed = u64::from(self.setup.recipe.training.seed);
        let mix = (seed << 40) ^ (self.position.step << 12) ^ u64::from(self.place.rank);
        tch::manual_seed(mix as i64);
    }

    /// Adds up this epoch's sums over all ranks. From then on rank 0 holds them for all.
    pub(super) fn shared_sums(&mut self) -> Result<Sums, Fault> {
        let own = self.position.sums;
        let fresh = self.left_out.fresh() as f64;
        let sums = Tensor::from_slice(&[own.loss, own.correct, own.images, fresh]).to_device(self.setup.device);
        self.group.all_reduce_sum(&sums)?;
        let all: Vec<f64> = Vec::try_from(&sums)?;
        if all[3] > 0.0 {
            let setup = self.setup;
            let images = [Some(&setup.training), setup.validation.as_ref()].into_iter().flatten();
            // Each part has a bound of its own, which its loader keeps on each rank; this is the bound of both on all ranks.
            let at_most = images.map(|images| setup.unreadable(images.dataset().samples.len())).sum();
            self.left_out.gather(self.group, &mut self.position.left_out, at_most)?;
        }
        let all = Sums { loss: all[0], correct: all[1], images: all[2] };
        self.position.sums = if self.place.is_first() { all } else { Sums::default() };
        Ok(all)
    }

    /// Bytes of gradients that this rank, and every other, has handed to the network; none where there is no other.
    fn gradient_bytes(&self) -> Result<Option<u64>, Fault> {
        Ok((self.group.world_size() > 1).then(|| self.replica.ddp.gradient_bytes()).transpose()?)
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
