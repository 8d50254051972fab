//! ResNet 18 to 152 (He et al. 2015), as torchvision builds them: the stride of a bottleneck lies in its 3x3 convolution.

use crds::model::Architecture;
use tch::{TchError, Tensor};

use super::conv::{ConvNorm, Kernel};
use super::init::Init;
use super::layers::{Activation, BatchNorm2d, Linear, NormConstants};
use super::state::State;
use super::{Built, Folding, Net};

/// Which blocks, and how many in each of the four stages.
pub(super) struct Shape {
    bottleneck: bool,
    blocks: [usize; 4],
}

impl Shape {
    /// The shape of a ResNet; `None` for any other architecture.
    pub(super) fn of(architecture: Architecture) -> Option<Shape> {
        let (bottleneck, blocks) = match architecture {
            Architecture::Resnet18 => (false, [2, 2, 2, 2]),
            Architecture::Resnet34 => (false, [3, 4, 6, 3]),
            Architecture::Resnet50 => (true, [3, 4, 6, 3]),
            Architecture::Resnet101 => (true, [3, 4, 23, 3]),
            Architecture::Resnet152 => (true, [3, 8, 36, 3]),
            _ => return None,
        };
        Some(Shape { bottleneck, blocks })
    }
}

struct ResNet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    fc: Linear,
}

/// A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 (bottleneck).
struct Block {
    layers: Vec<ConvNorm>,
    downsample: Option<ConvNorm>,
}

/// Builds the network and names its stages: stem, four stages, head.
pub(super) fn build(shape: &Shape, classes: i64, state: &mut State) -> Built {
    let names = ["conv1".to_owned(), "bn1".to_owned()];
    let kernel = Kernel::square(3, 64, 7).stride(2);
    let stem = ConvNorm::named(state, names.clone(), kernel, NormConstants::DEFAULT, Activation::Relu);
    let expansion = if shape.bottleneck { 4 } else { 1 };
    let mut inputs = 64;
    let mut blocks = Vec::new();
    for (stage, &count) in shape.blocks.iter().enumerate() {
        let width = 64 << stage;
        for index in 0..count {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let name = format!("layer{}.{index}", stage + 1);
            blocks.push(Block::new(state, &name, inputs, width, stride, shape.bottleneck));
            inputs = width * expansion;
        }
    }
    // PyTorch's default for a linear layer.
    let uniform = Init::Uniform(1.0 / (inputs as f64).sqrt());
    let fc = Linear::new(state, "fc", (inputs, classes), uniform, uniform);
    let mut stages = vec![names.to_vec()];
    stages.extend((1..=4).map(|stage| vec![format!("layer{stage}")]));
    stages.push(vec!["fc".to_owned()]);
    (Box::new(ResNet { stem, blocks, fc }), stages)
}

impl Block {
    fn new(state: &mut State, name: &str, inputs: i64, width: i64, stride: i64, bottleneck: bool) -> Block {
        let mut layer = |index: usize, kernel: Kernel, activation| {
            let names = [format!("{name}.conv{index}"), format!("{name}.bn{index}")];
            ConvNorm::named(state, names, kernel, NormConstants::DEFAULT, activation)
        };
        let (layers, outputs) = if bottleneck {
            let layers = vec![
                layer(1, Kernel::square(inputs, width, 1), Activation::Relu),
                layer(2, Kernel::square(width, width, 3).stride(stride), Activation::Relu),
                layer(3, Kernel::square(width, width * 4, 1), Activation::None),
            ];
            (layers, width * 4)
        } else {
            let layers = vec![
                layer(1, Kernel::square(inputs, width, 3).stride(stride), Activation::Relu),
                layer(2, Kernel::square(width, width, 3), Activation::None),
            ];
            (layers, width)
        };
        let downsample = (stride != 1 || inputs != outputs).then(|| {
            let kernel = Kernel::square(inputs, outputs, 1).stride(stride);
            ConvNorm::new(state, &format!("{name}.downsample"), kernel, NormConstants::DEFAULT, Activation::None)
        });
        Block { layers, downsample }
    }

    fn forward(&self, input: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let (last, others) = self.layers.split_last().expect("a block has two or three layers");
        let mut output = input.shallow_clone();
        for layer in others {
            output = layer.forward(&output, train)?;
        }
        if last.is_folded() {
            return last.add_to(&output, &self.identity(input, train)?, Activation::Relu);
        }
        output = last.forward(&output, train)?;
        // After the layers, as torchvision does: the order in which gradients come decides which share a bucket, and with
        // it the order of their sums over more than two ranks.
        output.f_add_(&self.identity(input, train)?)?.f_relu_()
    }

    fn identity(&self, input: &Tensor, train: bool) -> Result<Tensor, TchError> {
        match &self.downsample {
            Some(downsample) => downsample.forward(input, train),
            None => Ok(input.shallow_clone()),
        }
    }

    fn units(&mut self) -> impl Iterator<Item = &mut ConvNorm> {
        self.layers.iter_mut().chain(self.downsample.as_mut())
    }
}

impl ResNet {
    fn units(&mut self) -> impl Iterator<Item = &mut ConvNorm> {
        std::iter::once(&mut self.stem).chain(self.blocks.iter_mut().flat_map(Block::units))
    }
}

impl Net for ResNet {
    fn features(&self, images: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let stem = self.stem.forward(images, train)?;
        let mut features = stem.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?;
        for block in &self.blocks {
            features = block.forward(&features, train)?;
        }
        Ok(features)
    }

    fn head(&self, features: &Tensor, _train: bool) -> Result<Tensor, TchError> {
        self.fc.forward(&features.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?)
    }

    fn freeze(&mut self, prefixes: &[String]) {
        for norm in self.norms() {
            norm.freeze(prefixes);
        }
    }

    fn norms(&mut self) -> Vec<&mut BatchNorm2d> {
        self.units().filter_map(ConvNorm::norm).collect()
    }

    fn fold(&mut self, folding: Folding) -> Result<(), TchError> {
        self.units().try_for_each(|unit| unit.fold(folding))
    }
}
