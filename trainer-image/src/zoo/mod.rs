//! The model zoo: torchvision's image classifiers by torchvision's names, with its parameter names, constants and
//! initial distributions, so that weights travel both ways.

mod layers;
mod resnet;
mod state;

pub use state::{Entry, Role, State, WeightsError, host_copy, read_safetensors, write_safetensors};

use crds::model::Architecture;
use tch::{Device, Tensor};

/// A network: its tensors by name, and the forward pass over them.
pub struct Model {
    state: State,
    net: Box<dyn Net>,
    stages: Vec<Vec<String>>,
}

/// What a network of the zoo computes. `train` selects batch statistics in batch norms.
trait Net: Send {
    /// Logits of shape `[batch, classes]` for images of shape `[batch, 3, height, width]`.
    fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor, tch::TchError>;
    /// Keeps the running statistics of the batch norms below these name prefixes as they are.
    fn freeze(&mut self, prefixes: &[String]);
}

/// An architecture that this version of the trainer doesn't have.
#[derive(Debug, thiserror::Error)]
#[error("the trainer has no architecture {0:?}")]
pub struct UnknownArchitecture(pub Architecture);

impl Model {
    /// Builds `architecture` for `classes` classes on `device` with torchvision's initial distribution, drawn from
    /// libtorch's default generator seeded by `seed`: the same seed gives the same weights on every rank.
    pub fn new(
        architecture: Architecture,
        classes: i64,
        seed: i64,
        device: Device,
    ) -> Result<Model, UnknownArchitecture> {
        tch::manual_seed(seed);
        let _no_grad = tch::no_grad_guard();
        let mut state = State::new(device);
        let (net, stages) = match resnet::Shape::of(architecture) {
            Some(shape) => resnet::build(&shape, classes, &mut state),
            None => return Err(UnknownArchitecture(architecture)),
        };
        Ok(Model { state, net, stages })
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

    /// Name of the layer whose outputs are the logits.
    pub fn head(&self) -> &str {
        self.stages.last().and_then(|stage| stage.first()).map_or("", String::as_str)
    }

    /// Number of stages that [`train_last_stages`](Self::train_last_stages) counts, the head included.
    pub fn stages(&self) -> usize {
        self.stages.len()
    }

    /// Freezes all but the last `count` stages, their batch norms' statistics included. The head is the last stage.
    pub fn train_last_stages(&mut self, count: usize) {
        let frozen: Vec<String> = self.stages[..self.stages.len().saturating_sub(count)].concat();
        self.state.freeze(&frozen);
        self.net.freeze(&frozen);
    }
}
