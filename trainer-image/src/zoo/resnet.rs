//! ResNet 18 to 152 (He et al. 2015), as torchvision builds them: the stride of a bottleneck lies in its 3x3 convolution.

use crds::model::Architecture;
use tch::{TchError, Tensor};

use super::init::Init;
use super::layers::{BatchNorm2d, Conv2d, Kernel, Linear, NormConstants};
use super::state::State;
use super::{Built, Net};

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
    conv1: Conv2d,
    bn1: BatchNorm2d,
    blocks: Vec<Block>,
    fc: Linear,
}

/// A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 (bottleneck).
struct Block {
    layers: Vec<(Conv2d, BatchNorm2d)>,
    downsample: Option<(Conv2d, BatchNorm2d)>,
}

/// Builds the network and names its stages: stem, four stages, head.
pub(super) fn build(shape: &Shape, classes: i64, state: &mut State) -> Built {
    let stem = Kernel::square(3, 64, 7).stride(2);
    let conv1 = Conv2d::new(state, "conv1", stem, stem.he());
    let bn1 = BatchNorm2d::new(state, "bn1", 64, NormConstants::DEFAULT);
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
    let mut stages = vec![vec!["conv1".to_owned(), "bn1".to_owned()]];
    stages.extend((1..=4).map(|stage| vec![format!("layer{stage}")]));
    stages.push(vec!["fc".to_owned()]);
    (Box::new(ResNet { conv1, bn1, blocks, fc }), stages)
}

impl Block {
    fn new(state: &mut State, name: &str, inputs: i64, width: i64, stride: i64, bottleneck: bool) -> Block {
        let mut layer = |index: usize, inputs, outputs, kernel, stride| {
            let kernel = Kernel::square(inputs, outputs, kernel).stride(stride);
            let conv = Conv2d::new(state, &format!("{name}.conv{index}"), kernel, kernel.he());
            (conv, BatchNorm2d::new(state, &format!("{name}.bn{index}"), outputs, NormConstants::DEFAULT))
        };
        let (layers, outputs) = if bottleneck {
            let layers = vec![
                layer(1, inputs, width, 1, 1),
                layer(2, width, width, 3, stride),
                layer(3, width, width * 4, 1, 1),
            ];
            (layers, width * 4)
        } else {
            (vec![layer(1, inputs, width, 3, stride), layer(2, width, width, 3, 1)], width)
        };
        let downsample = (stride != 1 || inputs != outputs).then(|| {
            let kernel = Kernel::square(inputs, outputs, 1).stride(stride);
            let conv = Conv2d::new(state, &format!("{name}.downsample.0"), kernel, kernel.he());
            (conv, BatchNorm2d::new(state, &format!("{name}.downsample.1"), outputs, NormConstants::DEFAULT))
        });
        Block { layers, downsample }
    }

    fn forward(&self, input: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let mut output = input.shallow_clone();
        for (index, (conv, norm)) in self.layers.iter().enumerate() {
            output = norm.forward(&conv.forward(&output)?, train)?;
            if index + 1 < self.layers.len() {
                output = output.f_relu_()?;
            }
        }
        // After the layers, as torchvision does: the order in which gradients come decides which share a bucket, and with
        // it the order of their sums over more than two ranks.
        let identity = match &self.downsample {
            Some((conv, norm)) => norm.forward(&conv.forward(input)?, train)?,
            None => input.shallow_clone(),
        };
        output.f_add_(&identity)?.f_relu_()
    }

    fn norms(&mut self) -> impl Iterator<Item = &mut BatchNorm2d> {
        self.layers.iter_mut().chain(self.downsample.as_mut()).map(|(_, norm)| norm)
    }
}

impl Net for ResNet {
    fn features(&self, images: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let stem = self.bn1.forward(&self.conv1.forward(images)?, train)?.f_relu_()?;
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
        std::iter::once(&mut self.bn1).chain(self.blocks.iter_mut().flat_map(Block::norms)).collect()
    }
}
