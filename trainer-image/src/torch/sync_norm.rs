//! Batch norm over the batches of all ranks.

use std::sync::Arc;

use tch::Tensor;

use super::ffi::{self, pointer};
use super::{ProcessGroup, TorchError};

/// The ranks over whose batches batch norms take their statistics. Lives on after the [`ProcessGroup`] it came from.
#[derive(Clone)]
pub struct NormRanks(Arc<Shared>);

struct Shared(ProcessGroup);

// SAFETY: only the group's collectives are used here, whose queue c10d locks; nothing of the handle itself ever changes.
unsafe impl Sync for Shared {}

/// Tensors and constants of a batch norm.
#[derive(Clone, Copy)]
pub struct SyncNorm<'a> {
    /// Factor of each channel.
    pub weight: &'a Tensor,
    /// Offset of each channel.
    pub bias: &'a Tensor,
    /// Moving average of the mean of each channel.
    pub running_mean: &'a Tensor,
    /// Moving average of the variance of each channel.
    pub running_var: &'a Tensor,
    /// Weight of a batch in the moving averages.
    pub momentum: f64,
    /// What is added to a variance.
    pub epsilon: f64,
}

impl NormRanks {
    /// The ranks of a connected group.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn new(group: &ProcessGroup) -> Result<NormRanks, TorchError> {
        Ok(NormRanks(Arc::new(Shared(group.share()?))))
    }

    /// What `torch.nn.SyncBatchNorm` computes in training for `images` of shape `[batch, channels, height, width]`, with
    /// the statistics over the images of all ranks; updates the running ones. A collective, and another one in the
    /// backward pass: all ranks call it in the same order. Batches may be of different sizes.
    ///
    /// # Errors
    /// A rank is gone or did not come in time, or memory ran out.
    pub fn batch_norm(&self, images: &Tensor, norm: SyncNorm<'_>) -> Result<Tensor, TorchError> {
        let given = ffi::BatchNorm {
            weight: pointer(norm.weight),
            bias: pointer(norm.bias),
            running_mean: pointer(norm.running_mean),
            running_var: pointer(norm.running_var),
            momentum: norm.momentum,
            epsilon: norm.epsilon,
        };
        ffi::new_tensor(|out| {
            // SAFETY: the handle is alive as long as self, the tensors through the call; autograd keeps its own references.
            unsafe { ffi::ty_sync_batch_norm(self.0.0.handle(), pointer(images), given, out) }
        })
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::ddp::Group;
    use crate::torch::{backward, to_channels_last};

    /// Output, gradients and running statistics, by libtorch's own batch norm if there are no ranks.
    fn results(ranks: Option<&NormRanks>, kind: Kind, channels_last: bool) -> Vec<Tensor> {
        tch::manual_seed(4);
        let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let images = random(&[4, 3, 5, 6]) * 3.0 + 2.0;
        let images = if channels_last { to_channels_last(&images).unwrap() } else { images };
        let images = images.to_kind(kind).set_requires_grad(true);
        let (weight, bias) = (random(&[3]).set_requires_grad(true), random(&[3]).set_requires_grad(true));
        let (running_mean, running_var) = (random(&[3]), random(&[3]).abs());
        let by_output = random(&[4, 3, 5, 6]);
        let (momentum, epsilon) = (0.2, 1e-3);
        let output = match ranks {
            None => {
                let (mean, var) = (Some(&running_mean), Some(&running_var));
                images.batch_norm(Some(&weight), Some(&bias), mean, var, true, momentum, epsilon, false)
            }
            Some(ranks) => {
                let norm = SyncNorm {
                    weight: &weight,
                    bias: &bias,
                    running_mean: &running_mean,
                    running_var: &running_var,
                    momentum,
                    epsilon,
                };
                ranks.batch_norm(&images, norm).unwrap()
            }
        };
        backward(&(&output * by_output).sum(Kind::Float)).unwrap();
        vec![output, images.grad(), weight.grad(), bias.grad(), running_mean, running_var]
    }

    #[test]
    fn over_one_rank_it_is_libtorch_s_batch_norm() {
        let group = Group::alone().unwrap();
        let ranks = group.norm_ranks().unwrap();
        for (kind, channels_last, close) in [
            (Kind::Float, false, 1e-6),
            (Kind::Float, true, 1e-6),
            // A bit of bfloat16 is 2^-8.
            (Kind::BFloat16, false, 1e-2),
            (Kind::BFloat16, true, 1e-2),
        ] {
            let (ours, theirs) = (results(Some(&ranks), kind, channels_last), results(None, kind, channels_last));
            for (which, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                assert_eq!(ours.kind(), theirs.kind(), "result {which}, {kind:?}");
                let [ours, theirs] = [ours, theirs].map(|tensor| tensor.to_kind(Kind::Double));
                let largest = theirs.abs().max().double_value(&[]).max(1.0);
                let apart = (ours - theirs).abs().max().double_value(&[]) / largest;
                assert!(apart <= close, "result {which}, {kind:?}, channels-last {channels_last}: {apart:e}");
            }
        }
    }
}
