//! One rank's replica of the model with all that a step needs: forward, averaged backward, optimizer.

use tch::{Kind, Reduction, Tensor};

use super::position::Sums;
use crate::data::Batch;
use crate::ddp::{Ddp, GradSync};
use crate::fault::Fault;
use crate::input::Input;
use crate::optim::Optimizer;
use crate::torch::Autocast;
use crate::zoo::Model;

/// What a step does beside the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepSettings {
    /// Images of one forward pass.
    pub(super) batch_size: usize,
    /// Kind of convolutions and matrix products.
    pub(super) precision: Kind,
    /// Share of the target's probability that is spread over all classes.
    pub(super) label_smoothing: f64,
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
}

impl Replica<'_> {
    /// One optimizer step over a batch, which may be of several forward passes whose gradients add up to the mean over
    /// all images. Returns this rank's sums; `None`, with nothing done, if `stops` says so once rank 0's buffers are here.
    pub(super) fn step(
        &mut self,
        batch: &Batch,
        learning_rate: f64,
        stops: impl Fn() -> bool,
    ) -> Result<Option<Sums>, Fault> {
        self.ddp.clear_gradients()?;
        let images = batch.labels.len();
        let image_bytes = batch.pixels.len() / images;
        let mut sums = Sums::default();
        let mut first = 0;
        while first < images {
            let end = (first + self.settings.batch_size).min(images);
            let sync = if end == images { GradSync::Average } else { GradSync::Accumulate };
            self.ddp.prepare(sync)?;
            if first == 0 && stops() {
                return Ok(None);
            }
            let pixels = &batch.pixels[first * image_bytes..end * image_bytes];
            sums.add(self.pass(pixels, &batch.labels[first..end], sync, images)?);
            first = end;
        }
        if let Some(norm) = self.settings.clip_norm {
            self.optimizer.clip(norm)?;
        }
        self.optimizer.step(learning_rate)?;
        Ok(Some(sums))
    }

    /// Forward, which has been prepared, and backward over a part of a step's `images`.
    fn pass(&mut self, pixels: &[u8], labels: &[i64], sync: GradSync, images: usize) -> Result<Sums, Fault> {
        let device = self.input.device();
        let count = labels.len() as f64;
        let labels = Tensor::from_slice(labels).to_device(device);
        let input = self.input.tensor(pixels)?;
        let (model, settings) = (&self.model, &self.settings);
        let (logits, loss) = {
            let _autocast = Autocast::enter(device, settings.precision)?;
            let logits = self.ddp.forward_prepared(sync, || model.forward(&input, true))?.f_to_kind(Kind::Float)?;
            let weights = None::<&Tensor>;
            let loss =
                logits.f_cross_entropy_loss(&labels, weights, Reduction::Mean, -100, settings.label_smoothing)?;
            (logits, loss)
        };
        let share = count / images as f64;
        self.ddp.backward(&if share < 1.0 { loss.f_mul_scalar(share)? } else { loss.shallow_clone() })?;
        let right = logits.detach().f_argmax(-1, false)?.f_eq_tensor(&labels)?.f_sum(Kind::Float)?;
        Ok(Sums { loss: loss.double_value(&[]) * count, correct: right.double_value(&[]), images: count })
    }
}
