//! Whether a prepared network is true to the one that was trained: a fixed batch through both.

use crds::training::Precision;
use tch::{Device, Kind, Tensor};

use crate::data::Preprocessing;
use crate::fault::Fault;
use crate::input::{self, Input};
use crate::zoo::{FoldedModel, Model};

/// Images of the batch.
const IMAGES: usize = 2;

/// How far a logit of a prepared network may be from that of the network as trained, as a share of the largest one of the
/// batch, or of 1 if that is smaller. Rounding to 24, 11 or 8 bits adds up over the layers; of a GPU's convolutions in
/// Float32 10 bits count (TF32).
pub fn tolerance(precision: Precision, device: Device) -> f64 {
    match (precision, device) {
        (Precision::Float32, Device::Cpu) => 1e-4,
        (Precision::Float32 | Precision::Float16, _) => 2e-2,
        (Precision::BFloat16, _) => 1e-1,
    }
}

/// The batch, and what the network as trained says of it.
pub(super) struct Probe {
    images: Tensor,
    logits: Tensor,
}

impl Probe {
    pub(super) fn new(
        preprocessing: &Preprocessing,
        input: &Input,
        model: &Model,
        precision: Kind,
    ) -> Result<Probe, Fault> {
        let images = input.tensor(&pixels(IMAGES * preprocessing.image_bytes()))?;
        Ok(Probe { logits: input::logits(model, &images, precision)?, images })
    }

    /// Why a prepared network is not to be used, if it isn't.
    pub(super) fn check(&self, folded: &FoldedModel, tolerance: f64) -> Result<(), String> {
        let logits = folded.forward(&self.images).map_err(|error| error.to_string())?;
        match apart(&logits, &self.logits).map_err(|error| error.to_string())? {
            apart if apart <= tolerance => Ok(()),
            apart => Err(format!(
                "its logits are {apart:.1e} of the largest one from those of the network as trained, {tolerance:.0e} is allowed"
            )),
        }
    }
}

/// The largest difference of two batches of logits, as a share of the largest logit of the second, or of 1.
pub(super) fn apart(ours: &Tensor, theirs: &Tensor) -> Result<f64, tch::TchError> {
    let double = |tensor: &Tensor| tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double);
    let (ours, theirs) = (double(ours)?, double(theirs)?);
    let largest = |tensor: &Tensor| tensor.f_abs()?.f_max()?.f_double_value(&[]);
    Ok(largest(&ours.f_sub(&theirs)?)? / largest(&theirs)?.max(1.0))
}

/// The same noise every time, in blocks, so that there is something at more than one scale (Marsaglia 2003, xorshift).
fn pixels(bytes: usize) -> Vec<u8> {
    let mut state = 2_463_534_242_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let mut base = 0;
    (0..bytes)
        .map(|index| {
            if index % 97 == 0 {
                base = next() % 192;
            }
            (base + next() % 64) as u8
        })
        .collect()
}
