//! A trained model as scoring and serving compute it: from an image's bytes, or a batch of pixels, to probabilities.
//!
//! ```text
//!  image ─► view ─► pixels ─► input ─► network ─► logits ─► probabilities
//!                                        └─ folded and packed, folded, or as trained: the first that is true to it
//! ```
//!
//! Preprocessing is the one of training (`data::view`, `input`), whose hash [`model::open`] has checked. The network is
//! prepared: batch norms are part of the convolutions before them, weights have the precision that is computed with, and on
//! CPUs they lie as oneDNN wants them, with activations and sums fused. That is the same function, but not the same order
//! of operations as in training's validation, and so not the same bits. What holds:
//!
//! - Preparing compares the logits of a fixed batch with those of the network as trained, in the same precision. If they are
//!   further apart than [`tolerance`] allows, the network is used as trained, and the log says why.
//! - Scoring and serving prepare by the same code: with equal device, precision, threads and number of images at a
//!   time they give the same logits for the same image, bit for bit.
//! - With [`Settings::exact`] (`TRAINYARD_EXACT=1`) the network is used as trained: then training's validation, scoring
//!   and serving give the same logits, bit for bit, under these same conditions.
//!
//! The number of images at a time is among the conditions because libtorch's kernels sum in another order for another
//! number, in training as well.

mod probe;
#[cfg(test)]
mod tests;

use std::path::Path;

use crds::contract::{Cause, env};
use crds::training::Precision;
use tch::{Device, Kind, Tensor};

use crate::data::{ImageFault, Scratch, View};
use crate::fault::Fault;
use crate::input::{Input, logits, rows};
use crate::model::{self, Card, Saved};
use crate::torch::set_channels_last;
use crate::zoo::{Blueprint, FoldedModel, Folding, Model};
use probe::Probe;
pub use probe::tolerance;

/// How a model is to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where.
    pub device: Device,
    /// Number format of convolutions and matrix products.
    pub precision: Precision,
    /// Images at a time, about: what the weights are laid out for. Other numbers work as well.
    pub batch_size: usize,
    /// Computes in training's own order of operations, to the same bits, at a lower rate.
    pub exact: bool,
}

impl Settings {
    /// On this device, for this many images at a time; exact if the environment asks for it.
    pub fn new(device: Device, precision: Precision, batch_size: usize) -> Settings {
        let exact = std::env::var(env::EXACT).is_ok_and(|value| value == "1");
        Settings { device, precision, batch_size, exact }
    }
}

/// A model that is ready to classify images.
pub struct Classifier {
    card: Card,
    digest: String,
    view: View,
    input: Input,
    precision: Kind,
    network: Network,
}

enum Network {
    AsTrained(Model),
    Folded { model: FoldedModel, packed: bool },
}

impl Classifier {
    /// Reads a model folder and prepares its network.
    ///
    /// # Errors
    /// As [`model::open`] and [`prepare`](Self::prepare).
    pub fn open(folder: &Path, settings: Settings) -> Result<Classifier, Fault> {
        Classifier::prepare(&model::open(folder)?, settings)
    }

    /// Prepares the network of a model.
    ///
    /// # Errors
    /// Its preprocessing can't be carried out, its weights don't fit its architecture, or memory ran out.
    pub fn prepare(saved: &Saved, settings: Settings) -> Result<Classifier, Fault> {
        Classifier::prepare_within(saved, settings, tolerance(settings.precision, settings.device))
    }

    fn prepare_within(saved: &Saved, settings: Settings, tolerance: f64) -> Result<Classifier, Fault> {
        let card = &saved.card;
        card.preprocessing.check()?;
        let precision = kind(settings.precision);
        let input = Input::new(&card.preprocessing, settings.device);
        let network = network(saved, &input, settings, tolerance)?;
        Ok(Classifier {
            view: View::evaluation(card.preprocessing.clone()),
            card: card.clone(),
            digest: saved.digest.clone(),
            input,
            precision,
            network,
        })
    }

    /// What is known of the model.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Digest of the model: that of its card.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Names of the classes, in the order of the probabilities.
    pub fn classes(&self) -> &[String] {
        &self.card.classes
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.input.device()
    }

    /// How the network is computed, for people: `folded, packed for oneDNN`.
    pub fn how(&self) -> &'static str {
        match &self.network {
            Network::AsTrained(_) => "as trained",
            Network::Folded { packed: true, .. } => "folded, packed for oneDNN",
            Network::Folded { packed: false, .. } => "folded",
        }
    }

    /// What the model sees of an image.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Draws what the model sees of an encoded image: [`image_bytes`](crate::data::Preprocessing::image_bytes) bytes, a row of
    /// [`probabilities`](Self::probabilities)' pixels.
    ///
    /// # Errors
    /// The image can't be decoded.
    pub fn draw(&self, scratch: &mut Scratch, image: &[u8], pixels: &mut [u8]) -> Result<(), ImageFault> {
        // The view is that of evaluation: neither the epoch nor the sample's number matters.
        self.view.draw(scratch, image, 0, 0, pixels).map(|_| ())
    }

    /// What a batch of pixels is classified as: for each image one probability for each class, image by image. `pixels`
    /// are those of [`draw`](Self::draw), one image after the other.
    ///
    /// # Errors
    /// Memory ran out, or the device failed.
    pub fn probabilities(&self, pixels: &[u8]) -> Result<Vec<f32>, Fault> {
        rows(&self.logits(&self.input.tensor(pixels)?)?)
    }

    /// Logits of shape `[images, classes]`, as floats, of normalised images of shape `[images, 3, size, size]`: those of
    /// [`tensor`](Self::tensor), or others, which are computed fastest channels last.
    ///
    /// # Errors
    /// The images don't fit, memory ran out, or the device failed.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor, Fault> {
        match &self.network {
            Network::AsTrained(model) => logits(model, images, self.precision),
            Network::Folded { model, .. } => Ok(model.forward(images)?),
        }
    }

    /// A batch of pixels as [`logits`](Self::logits) takes it.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn tensor(&self, pixels: &[u8]) -> Result<Tensor, Fault> {
        Ok(self.input.tensor(pixels)?)
    }
}

/// The class of an image: the most probable one, the first of equals; of two classes the second from the model's threshold on.
pub fn decide(probabilities: &[f32], threshold: Option<f32>) -> usize {
    match (threshold, probabilities) {
        (Some(threshold), [_, second]) => usize::from(*second >= threshold),
        _ => (0..probabilities.len()).rev().max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b])).unwrap_or(0),
    }
}

/// The network of a model as it was trained, on `device`, channels last.
///
/// # Errors
/// The weights don't fit the architecture, or memory ran out.
pub fn as_trained(saved: &Saved, device: Device) -> Result<Model, Fault> {
    let card = &saved.card;
    let blueprint = Blueprint {
        architecture: card.architecture,
        classes: card.classes.len() as i64,
        image_size: i64::from(card.preprocessing.crop_size),
    };
    let mut model = Model::blank(blueprint, device).map_err(|error| Fault::new(Cause::BadData, error.to_string()))?;
    model.state_mut().restore(&saved.weights)?;
    for entry in model.state().entries() {
        set_channels_last(&entry.tensor)?;
    }
    Ok(model)
}

/// The fastest form of the network that is true to it as trained.
fn network(saved: &Saved, input: &Input, settings: Settings, tolerance: f64) -> Result<Network, Fault> {
    let Settings { device, batch_size, .. } = settings;
    let precision = kind(settings.precision);
    let mut model = as_trained(saved, device)?;
    if settings.exact {
        return Ok(Network::AsTrained(model));
    }
    let probe = Probe::new(&saved.card.preprocessing, input, &model, precision)?;
    let best = Folding::best(precision, device, batch_size.max(1) as i64)?;
    let plain = Folding { packed_for: None, ..best };
    for folding in if best == plain { vec![plain] } else { vec![best, plain] } {
        let packed = folding.packed_for.is_some();
        let folded = model.fold(folding)?;
        match probe.check(&folded, tolerance) {
            Ok(()) => return Ok(Network::Folded { model: folded, packed }),
            Err(why) => tracing::warn!(packed, why, "the folded network is not used"),
        }
        model = as_trained(saved, device)?;
    }
    Ok(Network::AsTrained(model))
}

/// The kind of tensors that a precision means.
pub fn kind(precision: Precision) -> Kind {
    match precision {
        Precision::Float32 => Kind::Float,
        Precision::BFloat16 => Kind::BFloat16,
        Precision::Float16 => Kind::Half,
    }
}
