//! One rank's replica of the model with all that a step needs: forward, averaged backward, optimizer.

use std::ops::Range;

use crds::contract::Cause;
use tch::{Kind, Tensor};

use super::launch::{Launch, Next, Whole};

use crate::data::Batch;
use crate::ddp::{Ddp, GradSync};
use crate::fault::Fault;
use crate::input::Input;
use crate::loss::{Blend, Criterion, Targets};
use crate::metrics::{Phase, Stopwatch};
use crate::optim::{DeviceScale, Ema, GradientScaler, Optimizer};
use crate::torch::{self, Autocast};
use crate::zoo::Model;

/// What a step does beside the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepSettings {
    /// Images of one forward pass.
    pub(super) batch_size: usize,
    /// Kind of convolutions and matrix products.
    pub(super) precision: Kind,
    /// How batches are blended.
    pub(super) blend: Blend,
    /// Height and width of the images, in pixels.
    pub(super) side: u32,
    /// This rank.
    pub(super) rank: u32,
    /// Largest norm of all gradients together.
    pub(super) clip_norm: Option<f64>,
}

/// One rank's replica.
pub(super) struct Replica<'g> {
    pub(super) model: Model,
    pub(super) ddp: Ddp<'g>,
    pub(super) optimizer: Optimizer,
    pub(super) input: Input,
    pub(super) settings: StepSettings,
    pub(super) criterion: Criterion,
    /// Number of classes.
    pub(super) classes: i64,
    /// With gradients of 16 bits.
    pub(super) scaler: Option<GradientScaler>,
    /// The same where the device keeps it.
    pub(super) device_scale: Option<DeviceScale>,
    /// Where a moving average of the weights is what counts in the end.
    pub(super) ema: Option<Ema>,
    /// Where the time goes.
    pub(super) watch: Stopwatch,
    /// How steps come to the device.
    pub(super) launch: Launch,
}

impl Replica<'_> {
    /// One optimizer step, number `step`, over a batch, which may be of several forward passes whose gradients add up to
    /// the mean over all images; the last one alone averages over the ranks. Returns this rank's sums, of the losses and of the
    /// images that were right, as a tensor of the device; `None`, with nothing done, if `stops` says so once rank 0's buffers
    /// are here. The last `padding` images, which came before in this epoch, are trained on and not summed up.
    pub(super) fn step(
        &mut self,
        batch: &Batch,
        padding: usize,
        learning_rate: f64,
        step: u64,
        stops: impl FnMut() -> Result<bool, Fault>,
    ) -> Result<Option<Tensor>, Fault> {
        match self.launch.next(batch.labels.len() == self.settings.batch_size && padding == 0) {
            Next::Apart => self.step_apart(batch, padding, learning_rate, step, stops),
            next => self.step_as_a_whole(batch, learning_rate, step, stops, next),
        }
    }

    /// A step, one operation after the other.
    fn step_apart(
        &mut self,
        batch: &Batch,
        padding: usize,
        learning_rate: f64,
        step: u64,
        mut stops: impl FnMut() -> Result<bool, Fault>,
    ) -> Result<Option<Tensor>, Fault> {
        self.ddp.clear_gradients()?;
        let StepSettings { batch_size, blend, .. } = self.settings;
        let images = batch.labels.len();
        let divisor = self.criterion.divisor(&batch.labels, blend.is_on());
        // On the device, in 64 bits as the host adds them up: nobody waits for a GPU before it has the whole step to do.
        let mut sums = Tensor::f_zeros([2], (Kind::Double, self.input.device()))?;
        for (pass, first) in (0..images).step_by(batch_size).enumerate() {
            let end = (first + batch_size).min(images);
            let sync = if end == images { GradSync::Average } else { GradSync::Accumulate };
            self.ddp.prepare(sync)?;
            if first == 0 && stops()? {
                return Ok(None);
            }
            let (input, targets) = self.taken_in(batch, first..end, step, pass as u32)?;
            let share = self.criterion.divisor(&batch.labels[first..end], blend.is_on()) / divisor;
            let counted = (images - padding).clamp(first, end) - first;
            sums = sums.f_add(&self.pass(&input, &targets, sync, share, counted)?)?;
        }
        if let Some(scale) = &self.device_scale {
            let clip_norm = self.settings.clip_norm;
            scale.step(&self.optimizer, learning_rate, |optimizer| {
                clip_norm.map_or(Ok(()), |norm| optimizer.clip(norm))
            })?;
            sums = Tensor::f_cat(&[sums, scale.told()?], 0)?;
        } else {
            self.update(learning_rate)?;
        }
        self.watch.lap(Phase::Optimizer);
        Ok(Some(sums))
    }

    /// A full step by what was recorded of one, or is now. Alone in its world, it has nothing to average.
    fn step_as_a_whole(
        &mut self,
        batch: &Batch,
        learning_rate: f64,
        step: u64,
        mut stops: impl FnMut() -> Result<bool, Fault>,
        next: Next,
    ) -> Result<Option<Tensor>, Fault> {
        if stops()? {
            return Ok(None);
        }
        let (input, targets) = self.taken_in(batch, 0..batch.labels.len(), step, 0)?;
        if next == Next::Record {
            let device = self.input.device();
            match Whole::record(device, &input, &targets, |input, targets| self.all_of_a_step(input, targets)) {
                Ok(whole) => self.launch = Launch::Whole(Box::new(whole)),
                Err(fault) => self.launch.give_up(&fault),
            }
        }
        let Launch::Whole(whole) = &self.launch else {
            return self.step_apart(batch, 0, learning_rate, step, || Ok(false));
        };
        self.optimizer.set_rate(learning_rate)?;
        let sums = whole.replay(&input, &targets)?;
        self.optimizer.count();
        self.watch.lap(Phase::Forward);
        Ok(Some(sums))
    }

    /// The images of a part of a batch as the network takes them, and what they are to be taken for, blended as this pass of
    /// this step is.
    fn taken_in(&self, batch: &Batch, part: Range<usize>, step: u64, pass: u32) -> Result<(Tensor, Targets), Fault> {
        let StepSettings { blend, side, rank, .. } = self.settings;
        let image_bytes = batch.pixels.len() / batch.labels.len();
        let pixels = &batch.pixels[part.start * image_bytes..part.end * image_bytes];
        let input = self.input.flipped(pixels, &batch.flips[part.clone()])?;
        let labels = self.input.labels(&batch.labels[part])?;
        Ok(match blend.draw(step, rank, pass, side) {
            Some(mixture) => mixture.apply(&input, &labels, self.classes)?,
            None => (input, Targets::Classes(labels)),
        })
    }

    /// Forward, which has been prepared, and backward over a part of a step's images, whose loss counts `share` of the step's.
    /// Gives the sum of the losses of the first `counted` images and the number of those that were right, as a tensor of the
    /// device.
    fn pass(
        &mut self,
        input: &Tensor,
        targets: &Targets,
        sync: GradSync,
        share: f64,
        counted: usize,
    ) -> Result<Tensor, Fault> {
        let (model, settings) = (&self.model, &self.settings);
        let (logits, loss) = {
            let _autocast = Autocast::enter(self.input.device(), settings.precision)?;
            let logits = self.ddp.forward_prepared(sync, || model.forward(input, true))?.f_to_kind(Kind::Float)?;
            let loss = self.criterion.mean(&logits, targets)?;
            (logits, loss)
        };
        self.watch.lap(Phase::Forward);
        let part = if share < 1.0 { loss.f_mul_scalar(share)? } else { loss.shallow_clone() };
        self.ddp.backward(&match (&self.device_scale, &self.scaler) {
            (Some(scale), _) => scale.scaled(&part)?,
            (None, Some(scaler)) => part.f_mul_scalar(f64::from(scaler.scale()))?,
            (None, None) => part,
        })?;
        self.watch.lap(Phase::Backward);
        match counted as i64 {
            0 => Ok(Tensor::f_zeros([2], (Kind::Double, self.input.device()))?),
            counted if counted < logits.size()[0] => {
                let (logits, targets) = (logits.detach().f_narrow(0, 0, counted)?, targets.first(counted)?);
                sums(&logits, &self.criterion.mean(&logits, &targets)?, &targets)
            }
            _ => sums(&logits, &loss, targets),
        }
    }

    /// All that a step of one pass on a single process does with images that are on the device, without a word to the host: the
    /// same operations as [`step_apart`](Self::step_apart), to be recorded. Gradients are left where the recorded step keeps
    /// them. The learning rate is the one that the optimizer has on the device.
    fn all_of_a_step(&mut self, input: &Tensor, targets: &Targets) -> Result<Tensor, Fault> {
        self.ddp.clear_gradients()?;
        let (logits, loss) = {
            let _autocast = Autocast::enter(self.input.device(), self.settings.precision)?;
            let logits = self.model.forward(input, true)?.f_to_kind(Kind::Float)?;
            let loss = self.criterion.mean(&logits, targets)?;
            (logits, loss)
        };
        torch::backward(&loss)?;
        if let Some(norm) = self.settings.clip_norm {
            self.optimizer.clip(norm)?;
        }
        self.optimizer.apply(self.optimizer.base_rate(), None)?;
        if let Some(ema) = &mut self.ema {
            ema.update()?;
        }
        sums(&logits, &loss, targets)
    }

    /// The end of a step: gradients to weights. Gradients of 16 bits that overflowed are left out, the same on all ranks,
    /// because they have been averaged.
    fn update(&mut self, learning_rate: f64) -> Result<(), Fault> {
        let overflowed = match &self.scaler {
            Some(scaler) => self.optimizer.unscale(scaler.inverse())?,
            None => false,
        };
        if !overflowed {
            if let Some(norm) = self.settings.clip_norm {
                self.optimizer.clip(norm)?;
            }
            self.optimizer.step(learning_rate)?;
            if let Some(ema) = &mut self.ema {
                ema.update()?;
            }
        }
        if let Some(scaler) = &mut self.scaler {
            scaler.update(overflowed);
            return in_use(scaler);
        }
        Ok(())
    }

    /// Takes note of what the device tells behind the sums of a step.
    pub(super) fn hear(&mut self, told: &[f64]) -> Result<(), Fault> {
        let Some(scaler) = self.scaler.as_mut().filter(|_| told.len() == DeviceScale::VALUES) else { return Ok(()) };
        let (now, updates) = DeviceScale::read(scaler, told);
        *scaler = now;
        self.optimizer.set_steps(updates);
        in_use(scaler)
    }

    /// Puts the moving average of the weights in the model's place, or back; nothing without one.
    pub(super) fn swap_average(&self) -> Result<(), Fault> {
        Ok(self.ema.as_ref().map_or(Ok(()), Ema::swap)?)
    }
}

/// Whether a scale is one that gradients can still have.
fn in_use(scaler: &GradientScaler) -> Result<(), Fault> {
    if scaler.is_exhausted() {
        return Err(Fault::new(Cause::NotFinite, "gradients of 16 bits overflow at every scale")
            .hint("lower the learning rate, lengthen the warm-up, or set precision to BFloat16 or Float32"));
    }
    Ok(())
}

/// The sum of the losses of images and the number of those that were right, in 64 bits, on the device.
fn sums(logits: &Tensor, loss: &Tensor, targets: &Targets) -> Result<Tensor, Fault> {
    let count = logits.size()[0] as f64;
    let right = logits.detach().f_argmax(-1, false)?.f_eq_tensor(&targets.classes()?)?.f_sum(Kind::Float)?;
    let losses = loss.detach().f_to_kind(Kind::Double)?.f_mul_scalar(count)?;
    Ok(Tensor::f_stack(&[losses, right.f_to_kind(Kind::Double)?], 0)?)
}

#[cfg(test)]
mod tests;
