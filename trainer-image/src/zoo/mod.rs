//! The model zoo: torchvision's image classifiers by torchvision's names, with its parameter names, constants and
//! initial distributions, so that weights travel both ways.

mod conv;
mod convnext;
mod efficientnet;
mod folded;
mod heat_map;
mod init;
mod layers;
mod mobilenet_v3;
mod names;
mod noise;
mod resnet;
mod state;
#[cfg(test)]
mod tests;
mod vit;
mod weights;

pub use folded::{FoldedModel, Folding};
pub use heat_map::HeatMap;
pub use state::{Entry, Role, State, host_copies, host_copy};
pub use weights::{PickleError, PthError, WeightsError, read_safetensors, read_weights, write_safetensors};

use std::collections::BTreeMap;
use std::fmt;

use crds::model::Architecture;
use layers::BatchNorm2d;
use tch::{Device, Tensor};

use crate::torch::NormRanks;

/// A network: its tensors by name, and the forward pass over them.
pub struct Model {
    architecture: Architecture,
    state: State,
    net: Box<dyn Net>,
    stages: Vec<Vec<String>>,
}

/// What a network of the zoo computes. `train` selects batch statistics in batch norms, dropout and stochastic depth.
trait Net: Send {
    /// What the head looks at, for images of shape `[batch, 3, height, width]`: the last features that still have a place
    /// in the image.
    fn features(&self, images: &Tensor, train: bool) -> Result<Tensor, tch::TchError>;
    /// Logits of shape `[batch, classes]`.
    fn head(&self, features: &Tensor, train: bool) -> Result<Tensor, tch::TchError>;
    /// Features as maps of shape `[batch, channels, height, width]`.
    fn maps(&self, features: &Tensor) -> Result<Tensor, tch::TchError> {
        Ok(features.shallow_clone())
    }
    /// Logits of shape `[batch, classes]` for images of shape `[batch, 3, height, width]`.
    fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor, tch::TchError> {
        self.head(&self.features(images, train)?, train)
    }
    /// Leaves what lies below these name prefixes in evaluation mode: batch norms keep their running statistics and use
    /// them, no block is left out at random.
    fn freeze(&mut self, prefixes: &[String]);
    /// All batch norms.
    fn norms(&mut self) -> Vec<&mut BatchNorm2d>;
    /// Prepares all convolutions for inference, with the batch norms after them.
    fn fold(&mut self, folding: Folding) -> Result<(), tch::TchError>;
}

/// A network, and its stages from the input to the head: the names of the layers of each.
type Built = (Box<dyn Net>, Vec<Vec<String>>);

/// What a network is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blueprint {
    /// Which network.
    pub architecture: Architecture,
    /// Number of logits.
    pub classes: i64,
    /// Height and width of the images, in pixels. All networks but [`Architecture::VitB16`] take other sizes as well.
    pub image_size: i64,
}

/// Images of a size that an architecture can't take.
#[derive(Debug, thiserror::Error)]
#[error("{} takes images of {}, not of {image_size}", .architecture.name(), .architecture.image_sizes())]
pub struct ImageSizeError {
    /// The architecture.
    pub architecture: Architecture,
    /// Height and width asked for, in pixels.
    pub image_size: i64,
}

/// What came of weights that a model took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// They had timm's names.
    pub from_timm: bool,
    /// They were trained with images of another size, for which the positions of patches were interpolated.
    pub resized_positions: bool,
    /// The head starts anew.
    pub fresh_head: Option<FreshHead>,
}

/// A head that starts with random weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreshHead {
    /// Its name.
    pub name: String,
    /// Number of classes that the weights' own head is for, if they have one.
    pub classes: Option<i64>,
}

impl fmt::Display for Adopted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fresh_head {
            None => write!(formatter, "taken whole")?,
            Some(FreshHead { name, classes: Some(classes) }) => write!(
                formatter,
                "taken but for the head {name}, which starts anew: theirs is for {classes} classes, not for the data's"
            )?,
            Some(FreshHead { name, classes: None }) => {
                write!(formatter, "taken; the head {name}, which they lack, starts anew")?;
            }
        }
        if self.from_timm {
            write!(formatter, "; they have timm's names")?;
        }
        if self.resized_positions {
            write!(formatter, "; the positions of patches are interpolated to another image size")?;
        }
        Ok(())
    }
}

impl Model {
    /// Builds a network on `device` with torchvision's initial distribution, drawn from libtorch's default generator
    /// seeded by `seed`: the same seed gives the same weights on every rank.
    ///
    /// # Errors
    /// The architecture can't take images of that size.
    pub fn new(blueprint: Blueprint, seed: i64, device: Device) -> Result<Model, ImageSizeError> {
        tch::manual_seed(seed);
        Model::build(blueprint, State::new(device))
    }

    /// Builds a network on `device` whose parameters are all 0, for weights that take their place: to draw what nobody uses
    /// takes longer than to read what is used.
    ///
    /// # Errors
    /// The architecture can't take images of that size.
    pub fn blank(blueprint: Blueprint, device: Device) -> Result<Model, ImageSizeError> {
        Model::build(blueprint, State::blank(device))
    }

    fn build(blueprint: Blueprint, mut state: State) -> Result<Model, ImageSizeError> {
        let Blueprint { architecture, classes, image_size } = blueprint;
        if !u32::try_from(image_size).is_ok_and(|size| architecture.image_sizes().contain(size)) {
            return Err(ImageSizeError { architecture, image_size });
        }
        let _no_grad = tch::no_grad_guard();
        let (net, stages) = if let Some(shape) = resnet::Shape::of(architecture) {
            resnet::build(&shape, classes, &mut state)
        } else if let Some(shape) = efficientnet::Shape::of(architecture) {
            efficientnet::build(&shape, classes, &mut state)
        } else if let Some(shape) = mobilenet_v3::Shape::of(architecture) {
            mobilenet_v3::build(&shape, classes, &mut state)
        } else if let Some(shape) = convnext::Shape::of(architecture) {
            convnext::build(&shape, classes, &mut state)
        } else if let Some(shape) = vit::Shape::of(architecture, image_size) {
            vit::build(&shape, classes, &mut state)
        } else {
            unreachable!("{architecture:?} belongs to a family: a test builds them all")
        };
        Ok(Model { architecture, state, net, stages })
    }

    /// Logits of shape `[batch, classes]` for normalised images of shape `[batch, 3, height, width]`.
    pub fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor, tch::TchError> {
        self.net.forward(images, train)
    }

    /// The model's tensors.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The model's tensors, to load or convert them.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Takes first weights from elsewhere, which may have torchvision's names or timm's. A head for other classes stays
    /// fresh; the positions of a vision transformer for images of another size are interpolated, as by torchvision's
    /// `interpolate_embeddings`.
    ///
    /// # Errors
    /// Tensors other than the head's are missing, surplus or misshapen: each is named.
    pub fn adopt(&mut self, tensors: BTreeMap<String, Tensor>) -> Result<Adopted, WeightsError> {
        let names = self.state.entries().iter().map(|entry| (entry.name.as_str(), entry.tensor.size())).collect();
        let names::Renamed { mut tensors, from_timm } = names::to_torchvision(self.architecture, &names, tensors)?;
        let mut resized_positions = false;
        if let (Some(ours), Some(theirs)) = (names.get(vit::POSITIONS), tensors.get(vit::POSITIONS))
            && theirs.size() != *ours
            && let Some(resized) = vit::resize_positions(theirs, ours[1])?
        {
            tensors.insert(vit::POSITIONS.to_owned(), resized);
            resized_positions = true;
        }
        let head = self.head().to_owned();
        let classes = tensors.get(&format!("{head}.weight")).and_then(|weight| weight.size().first().copied());
        let fresh_head = (!self.state.adopt(&tensors, &head)?).then_some(FreshHead { name: head, classes });
        Ok(Adopted { from_timm, resized_positions, fresh_head })
    }

    /// Makes batch norms take the statistics of training over the batches of all ranks. Forward passes in training, and
    /// their backward passes, are collectives from then on.
    pub fn synchronise_norms(&mut self, ranks: &NormRanks) {
        for norm in self.net.norms() {
            norm.synchronise(ranks);
        }
    }

    /// Name of the layer whose outputs are the logits.
    pub fn head(&self) -> &str {
        self.stages.last().and_then(|stage| stage.first()).map_or("", String::as_str)
    }

    /// Number of stages that [`train_last_stages`](Self::train_last_stages) counts, the head included.
    pub fn stages(&self) -> usize {
        self.stages.len()
    }

    /// Freezes all but the last `count` stages: their parameters, their batch norms' statistics, and what is random in them,
    /// which stays as in evaluation. The head is the last stage.
    pub fn train_last_stages(&mut self, count: usize) {
        let frozen: Vec<String> = self.stages[..self.stages.len().saturating_sub(count)].concat();
        self.state.freeze(&frozen);
        self.net.freeze(&frozen);
    }
}
