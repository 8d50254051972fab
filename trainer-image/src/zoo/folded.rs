//! A network prepared for inference: batch norms are part of the convolutions before them, the weights have the kind that is
//! computed with, and what is left of training is gone.

use tch::{Device, Kind, TchError, Tensor};

use super::{Model, Net};
use crate::torch::{TorchError, packs};

/// How a network is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folding {
    /// Kind of the weights, and of what is computed: `Float`, `BFloat16` or `Half`.
    pub kind: Kind,
    /// Number of images at a time for which weights are packed for oneDNN, on a CPU that does; not packed without.
    pub packed_for: Option<i64>,
}

impl Folding {
    /// The best on this device: packed where the CPU computes packed convolutions of the kind.
    ///
    /// # Errors
    /// libtorch doesn't say whether it does.
    pub fn best(kind: Kind, device: Device, batch: i64) -> Result<Folding, TorchError> {
        let packed_for = (device == Device::Cpu && packs(kind)?).then_some(batch);
        Ok(Folding { kind, packed_for })
    }
}

/// A network prepared for inference. It has no gradient, and can be neither trained nor saved.
pub struct FoldedModel {
    net: Box<dyn Net>,
    kind: Kind,
}

impl Model {
    /// Prepares the network for inference. Weights are packed when the first images come, whose size tells how.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn fold(mut self, folding: Folding) -> Result<FoldedModel, TchError> {
        let _no_grad = tch::no_grad_guard();
        self.net.fold(folding)?;
        for mut entry in self.state.into_entries() {
            // Layers that have taken another tensor are the only ones that this one means nothing to.
            entry.tensor = entry.tensor.f_set_requires_grad(false)?;
            if folding.kind != Kind::Float && entry.tensor.kind() == Kind::Float {
                let converted = entry.tensor.f_to_kind(folding.kind)?;
                entry.tensor.f_set_data(&converted)?;
            }
        }
        Ok(FoldedModel { net: self.net, kind: folding.kind })
    }
}

impl FoldedModel {
    /// Logits of shape `[batch, classes]`, as floats, for normalised images of shape `[batch, 3, height, width]`.
    ///
    /// # Errors
    /// The images don't fit, or memory ran out.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor, TchError> {
        let _no_grad = tch::no_grad_guard();
        self.net.forward(&images.f_to_kind(self.kind)?, false)?.f_to_kind(Kind::Float)
    }
}
