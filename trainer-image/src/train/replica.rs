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
        stops: impl Fn() -> Result<bool, Fault>,
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
        stops: impl Fn() -> Result<bool, Fault>,
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
        stops: impl Fn() -> Result<bool, Fault>,
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
mod tests {
    use crds::model::Architecture;
    use crds::optimizer::{Algorithm, OptimizerSettings};
    use tch::Device;

    use super::*;
    use crate::data::{Flips, Preprocessing};
    use crate::ddp::{DdpOptions, Group};
    use crate::metrics::Phases;
    use crate::zoo::Blueprint;

    const IMAGES: usize = 8;
    const SIDE: i64 = 32;

    /// With all that a recorded step may have: blended images, weighted classes, smoothed labels, clipping, an average. Nothing in
    /// it is drawn: libtorch's generator is one for all tests.
    fn replica(group: &Group, mixup: f64) -> Replica<'_> {
        let blueprint = Blueprint { architecture: Architecture::Resnet18, classes: 3, image_size: SIDE };
        let model = Model::blank(blueprint, Device::Cpu).unwrap();
        for entry in model.state().entries() {
            let (tensor, size) = (&entry.tensor, entry.tensor.size());
            if tensor.requires_grad() {
                let values = Tensor::arange(tensor.numel() as i64, (Kind::Float, Device::Cpu)).sin() * 0.05;
                // Those of norms are about 1.
                let values = if size.len() == 1 { values + 1.0 } else { values };
                tch::no_grad(|| tensor.shallow_clone().copy_(&values.view(size.as_slice())));
            }
            torch::set_channels_last(tensor).unwrap();
        }
        let adam = Algorithm::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
        let settings = OptimizerSettings { learning_rate: 0.01, weight_decay: 0.01, algorithm: adam };
        let mut optimizer = Optimizer::new(settings, model.state().trainable());
        optimizer.keep_rate_on_device().unwrap();
        let averaged = model.state().entries().iter().map(|entry| (entry.name.clone(), entry.tensor.shallow_clone()));
        Replica {
            ema: Some(Ema::new(0.9, averaged.collect())),
            ddp: Ddp::new(group, &model.state().trainable(), &model.state().buffers(), DdpOptions::default()).unwrap(),
            model,
            optimizer,
            input: Input::new(&Preprocessing::for_size(SIDE as u32), Device::Cpu),
            settings: StepSettings {
                batch_size: IMAGES,
                precision: Kind::Float,
                blend: Blend { mixup, cutmix: 0.0, seed: 7 },
                side: SIDE as u32,
                rank: 0,
                clip_norm: Some(1.0),
            },
            criterion: Criterion::new(0.1, Some(vec![0.5, 2.0, 1.0]), Device::Cpu),
            classes: 3,
            scaler: None,
            device_scale: None,
            watch: Stopwatch::new(Phases::default()),
            launch: Launch::Apart(None),
        }
    }

    /// The batch of a step.
    fn batch(number: usize) -> Batch {
        Batch {
            pixels: (0..IMAGES * (SIDE * SIDE * 3) as usize).map(|at| (at * 31 + number * 7) as u8).collect(),
            flips: vec![Flips::default(); IMAGES],
            labels: (0..IMAGES).map(|image| ((image + number) % 3) as i64).collect(),
            indices: (0..IMAGES).collect(),
            failures: Vec::new(),
        }
    }

    /// Sums, weights and their average after three steps.
    fn trained(mixup: f64, step: impl Fn(&mut Replica<'_>, &Batch, f64, u64) -> Tensor) -> Vec<(String, Tensor)> {
        let group = Group::alone().unwrap();
        let mut replica = replica(&group, mixup);
        let mut all = Vec::new();
        for number in 0..3 {
            let batch = batch(number);
            let sums = step(&mut replica, &batch, 0.01 / (number + 1) as f64, number as u64);
            all.push((format!("sums {number}"), sums));
        }
        assert_eq!(replica.optimizer.steps(), 3);
        all.extend(replica.model.state().snapshot());
        all.extend(replica.ema.as_ref().unwrap().tensors());
        all
    }

    #[test]
    fn what_is_recorded_of_a_step_is_what_a_step_does_to_the_last_bit() {
        for mixup in [0.0, 0.4] {
            let apart = trained(mixup, |replica, batch, rate, number| {
                replica.step(batch, 0, rate, number, || Ok(false)).unwrap().unwrap()
            });
            let whole = trained(mixup, |replica, batch, rate, number| {
                let (input, targets) = replica.taken_in(batch, 0..IMAGES, number, 0).unwrap();
                replica.optimizer.set_rate(rate).unwrap();
                let sums = replica.all_of_a_step(&input, &targets).unwrap();
                replica.optimizer.count();
                sums
            });
            for ((name, apart), (_, whole)) in apart.iter().zip(&whole) {
                assert_eq!(apart, whole, "{name} with mixup {mixup}");
            }
        }
    }

    #[test]
    fn with_a_scale_on_the_device_a_step_is_the_same_and_the_host_hears_of_it() {
        let scaler = GradientScaler::with_interval(2);
        let made = |on_device: bool| {
            let group = Group::alone().unwrap();
            let mut replica = Replica { ema: None, scaler: Some(scaler), ..replica(&group, 0.0) };
            if on_device {
                replica.device_scale = Some(DeviceScale::new(&scaler, 0, Device::Cpu).unwrap());
            }
            let mut course = Vec::new();
            for number in 0..3 {
                let sums = replica.step(&batch(number), 0, 0.01, number as u64, || Ok(false)).unwrap().unwrap();
                let sums: Vec<f64> = Vec::try_from(&sums).unwrap();
                replica.hear(&sums[2..]).unwrap();
                course.push((sums[0], replica.scaler.unwrap(), replica.optimizer.steps()));
            }
            (course, replica.model.state().snapshot(), replica.optimizer.tensors())
        };
        assert_eq!(made(true), made(false));
    }

    #[test]
    fn padding_is_trained_on_and_not_counted() {
        let made = |padding: usize| {
            trained(0.0, |replica, batch, rate, number| {
                replica.step(batch, padding, rate, number, || Ok(false)).unwrap().unwrap()
            })
        };
        let right = |all: &[(String, Tensor)]| Vec::<f64>::try_from(&all[0].1).unwrap();
        let (all, some, none) = (made(0), made(IMAGES - 2), made(IMAGES));
        assert_eq!(all[3..], some[3..], "the weights");
        let (all, some) = (right(&all), right(&some));
        assert!(some[0] < all[0] && some[1] <= all[1].min(2.0), "{some:?} of {all:?}");
        assert_eq!(right(&none), [0.0, 0.0]);
    }

    #[test]
    fn where_nothing_can_be_recorded_the_step_is_made_all_the_same() {
        let made = |launch: fn() -> Launch| {
            trained(0.0, |replica, batch, rate, number| {
                if number == 0 {
                    replica.launch = launch();
                }
                let sums = replica.step(batch, 0, rate, number, || Ok(false)).unwrap().unwrap();
                assert!(!replica.launch.may_record());
                sums
            })
        };
        assert_eq!(made(|| Launch::Before(0)), made(|| Launch::Apart(None)));
    }
}
