//! Files of weights: safetensors, and what `torch.save` writes.

mod pickle;
mod pth;
mod safetensors;

use std::collections::BTreeMap;

use tch::Tensor;

pub use self::safetensors::{read_safetensors, write_safetensors};
pub use pickle::PickleError;
pub use pth::PthError;

/// Faults that the message of a mismatch lists; of the rest it says how many there are.
const LISTED: usize = 20;

/// Weights that can't be read, or don't fit a model.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// No known format.
    #[error("neither a safetensors file nor a PyTorch state dict")]
    Unknown,
    /// Not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(#[from] ::safetensors::SafeTensorError),
    /// Not a state dict.
    #[error("not a PyTorch state dict: {0}")]
    Pth(#[from] PthError),
    /// The names or shapes differ: one sentence for each tensor.
    #[error("the weights don't fit the model: {}", listed(.0))]
    Mismatch(Vec<String>),
    /// libtorch refused a copy.
    #[error("libtorch could not take the weights: {0}")]
    Torch(#[from] tch::TchError),
}

fn listed(faults: &[String]) -> String {
    match faults.len().saturating_sub(LISTED) {
        0 => faults.join("; "),
        more => format!("{}; and {more} more like these", faults[..LISTED].join("; ")),
    }
}

/// The tensors of a file of weights, by name. What it is, its first bytes say: a safetensors file, or one that `torch.save`
/// wrote, in today's format or the one before PyTorch 1.6. No code of the file is run.
///
/// # Errors
/// It is none of them, is damaged, or holds something else than a state dict.
pub fn read_weights(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    match bytes {
        [b'P', b'K', 3, 4, ..] => Ok(pth::read_archive(bytes)?),
        // The length of the header, in 8 bytes, then the header, which is JSON.
        [_, _, _, _, _, _, _, _, b'{', ..] => read_safetensors(bytes),
        // PROTO, the first instruction of a pickle.
        [0x80, 2..=5, ..] => Ok(pth::read_legacy(bytes)?),
        _ => Err(WeightsError::Unknown),
    }
}
