//! One rank's replica of the model with all that a step needs: forward, averaged backward, optimizer.

use crds::contract::Cause;
use tch::{Kind, Tensor};

use crate::data::Batch;
use crate::ddp::{Ddp, GradSync};
use crate::fault::Fault;
use crate::input::Input;
use crate::loss::{Blend, Criterion, Mixture, Targets};
use crate::metrics::{Phase, Stopwatch};
use crate::optim::{Ema, GradientScaler, Optimizer};
use crate::torch::Autocast;
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
    /// Where a moving average of the weights is what counts in the end.
    pub(super) ema: Option<Ema>,
    /// Where the time goes.
    pub(super) watch: Stopwatch,
}

impl Replica<'_> {
    /// One optimizer step, number `step`, over a batch, which may be of several forward passes whose gradients add up to
    /// the mean over all images; the last one alone averages over the ranks. Returns this rank's sums, of the losses and of the
    /// images that were right, as a tensor of the device; `None`, with nothing done, if `stops` says so once rank 0's buffers
    /// are here.
    pub(super) fn step(
        &mut self,
        batch: &Batch,
        learning_rate: f64,
        step: u64,
        stops: impl Fn() -> Result<bool, Fault>,
    ) -> Result<Option<Tensor>, Fault> {
        self.ddp.clear_gradients()?;
        let StepSettings { batch_size, blend, side, rank, .. } = self.settings;
        let images = batch.labels.len();
        let image_bytes = batch.pixels.len() / images;
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
            let pixels = &batch.pixels[first * image_bytes..end * image_bytes];
            let input = self.input.flipped(pixels, &batch.flips[first..end])?;
            let mixture = blend.draw(step, rank, pass as u32, side);
            sums = sums.f_add(&self.pass(input, &batch.labels[first..end], sync, divisor, mixture)?)?;
        }
        self.update(learning_rate)?;
        self.watch.lap(Phase::Optimizer);
        Ok(Some(sums))
    }

    /// Forward, which has been prepared, and backward over a part of a step's images, whose losses are divided by
    /// `divisor` in all. Gives the sum of the losses and the number of images that were right, as a tensor of the device.
    fn pass(
        &mut self,
        input: Tensor,
        labels: &[i64],
        sync: GradSync,
        divisor: f64,
        mixture: Option<Mixture>,
    ) -> Result<Tensor, Fault> {
        let device = self.input.device();
        let count = labels.len() as f64;
        let share = self.criterion.divisor(labels, mixture.is_some()) / divisor;
        let labels = self.input.labels(labels)?;
        let (input, targets) = match mixture {
            Some(mixture) => mixture.apply(&input, &labels, self.classes)?,
            None => (input, Targets::Classes(labels)),
        };
        let (model, settings) = (&self.model, &self.settings);
        let (logits, loss) = {
            let _autocast = Autocast::enter(device, settings.precision)?;
            let logits = self.ddp.forward_prepared(sync, || model.forward(&input, true))?.f_to_kind(Kind::Float)?;
            let loss = self.criterion.mean(&logits, &targets)?;
            (logits, loss)
        };
        self.watch.lap(Phase::Forward);
        let part = if share < 1.0 { loss.f_mul_scalar(share)? } else { loss.shallow_clone() };
        self.ddp.backward(&match &self.scaler {
            Some(scaler) => part.f_mul_scalar(f64::from(scaler.scale()))?,
            None => part,
        })?;
        self.watch.lap(Phase::Backward);
        let right = logits.detach().f_argmax(-1, false)?.f_eq_tensor(&targets.classes()?)?.f_sum(Kind::Float)?;
        let losses = loss.detach().f_to_kind(Kind::Double)?.f_mul_scalar(count)?;
        Ok(Tensor::f_stack(&[losses, right.f_to_kind(Kind::Double)?], 0)?)
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
            if scaler.is_exhausted() {
                return Err(Fault::new(Cause::NotFinite, "gradients of 16 bits overflow at every scale")
                    .hint("lower the learning rate, lengthen the warm-up, or set precision to BFloat16 or Float32"));
            }
        }
        Ok(())
    }

    /// Puts the moving average of the weights in the model's place, or back; nothing without one.
    pub(super) fn swap_average(&self) -> Result<(), Fault> {
        Ok(self.ema.as_ref().map_or(Ok(()), Ema::swap)?)
    }
}
