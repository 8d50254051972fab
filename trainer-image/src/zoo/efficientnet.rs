//! EfficientNet B0 to B7 (Tan and Le 2019), as torchvision builds them.
//!
//! Stages for fine-tuning are the children of `features`: the stem, seven stages of blocks, the last convolution; then
//! the head, `classifier.1`.

use crds::model::Architecture;
use tch::{TchError, Tensor};

use super::conv::{ConvNorm, Kernel};
use super::init::Init;
use super::layers::{Activation, BatchNorm2d, Gate, Linear, NormConstants, SqueezeExcitation, multiple_of_8};
use super::noise::{dropout, stochastic_depth};
use super::state::{State, is_below};
use super::{Built, Folding, Net};

/// What differs between B0 and B7.
pub(super) struct Shape {
    width: f64,
    depth: f64,
    dropout: f64,
    constants: NormConstants,
}

impl Shape {
    /// The shape of an EfficientNet; `None` for any other architecture.
    pub(super) fn of(architecture: Architecture) -> Option<Shape> {
        use NormConstants as N;
        let (width, depth, dropout, constants) = match architecture {
            Architecture::EfficientnetB0 => (1.0, 1.0, 0.2, N::DEFAULT),
            Architecture::EfficientnetB1 => (1.0, 1.1, 0.2, N::DEFAULT),
            Architecture::EfficientnetB2 => (1.1, 1.2, 0.3, N::DEFAULT),
            Architecture::EfficientnetB3 => (1.2, 1.4, 0.3, N::DEFAULT),
            Architecture::EfficientnetB4 => (1.4, 1.8, 0.4, N::DEFAULT),
            Architecture::EfficientnetB5 => (1.6, 2.2, 0.4, N::TENSORFLOW),
            Architecture::EfficientnetB6 => (1.8, 2.6, 0.5, N::TENSORFLOW),
            Architecture::EfficientnetB7 => (2.0, 3.1, 0.5, N::TENSORFLOW),
            _ => return None,
        };
        Some(Shape { width, depth, dropout, constants })
    }
}

/// One stage of B0: how much a block widens its inputs, its kernel, the first block's stride, outputs, blocks.
type Stage = (i64, i64, i64, i64, i64);

/// Table 1 of the paper.
const STAGES: [Stage; 7] = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
];
/// Outputs of B0's stem.
const STEM: i64 = 32;
/// Probability of leaving out the block after the last one; it grows from 0 linearly.
const STOCHASTIC_DEPTH: f64 = 0.2;

struct EfficientNet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    last: ConvNorm,
    dropout: f64,
    classifier: Linear,
}

/// An inverted residual block: widen, convolve each channel, squeeze and excite, narrow.
struct Block {
    name: String,
    widen: Option<ConvNorm>,
    depthwise: ConvNorm,
    squeeze: SqueezeExcitation,
    narrow: ConvNorm,
    /// Probability of leaving out the block, if its input is added to its output.
    residual: Option<f64>,
}

/// Builds the network and names its stages.
pub(super) fn build(shape: &Shape, classes: i64, state: &mut State) -> Built {
    let channels = |channels: i64| multiple_of_8(channels as f64 * shape.width);
    let blocks_of = |(.., count): Stage| (count as f64 * shape.depth).ceil() as i64;
    let mut inputs = channels(STEM);
    let kernel = Kernel::square(3, inputs, 3).stride(2);
    let stem = ConvNorm::new(state, "features.0", kernel, shape.constants, Activation::Silu);
    let total: i64 = STAGES.into_iter().map(blocks_of).sum();
    let mut blocks = Vec::new();
    for (index, stage) in STAGES.into_iter().enumerate() {
        let (widening, edge, first_stride, outputs, _) = stage;
        let outputs = channels(outputs);
        for block in 0..blocks_of(stage) {
            let config = Config {
                name: format!("features.{}.{block}.block", index + 1),
                inputs,
                outputs,
                widened: multiple_of_8((inputs * widening) as f64),
                edge,
                stride: if block == 0 { first_stride } else { 1 },
                left_out: STOCHASTIC_DEPTH * blocks.len() as f64 / total as f64,
            };
            blocks.push(Block::new(state, &config, shape.constants));
            inputs = outputs;
        }
    }
    let features = 4 * inputs;
    let kernel = Kernel::square(inputs, features, 1);
    let last = ConvNorm::new(state, "features.8", kernel, shape.constants, Activation::Silu);
    let uniform = Init::Uniform(1.0 / (classes as f64).sqrt());
    let classifier = Linear::new(state, "classifier.1", (features, classes), uniform, Init::Constant(0.0));
    let mut stages: Vec<Vec<String>> = (0..=8).map(|index| vec![format!("features.{index}")]).collect();
    stages.push(vec!["classifier.1".to_owned()]);
    (Box::new(EfficientNet { stem, blocks, last, dropout: shape.dropout, classifier }), stages)
}

/// What a block is built from.
struct Config {
    name: String,
    inputs: i64,
    outputs: i64,
    widened: i64,
    edge: i64,
    stride: i64,
    left_out: f64,
}

impl Block {
    fn new(state: &mut State, config: &Config, constants: NormConstants) -> Block {
        let &Config { ref name, inputs, outputs, widened, edge, stride, left_out } = config;
        let mut index = 0;
        let mut next = || {
            index += 1;
            format!("{name}.{}", index - 1)
        };
        let widen = (widened != inputs)
            .then(|| ConvNorm::new(state, &next(), Kernel::square(inputs, widened, 1), constants, Activation::Silu));
        let kernel = Kernel::depthwise(widened, edge).stride(stride);
        let depthwise = ConvNorm::new(state, &next(), kernel, constants, Activation::Silu);
        let squeezed = (inputs / 4).max(1);
        let squeeze = SqueezeExcitation::new(state, &next(), (widened, squeezed), Activation::Silu, Gate::Sigmoid);
        let narrow = ConvNorm::new(state, &next(), Kernel::square(widened, outputs, 1), constants, Activation::None);
        let residual = (stride == 1 && inputs == outputs).then_some(left_out);
        Block { name: name.clone(), widen, depthwise, squeeze, narrow, residual }
    }

    fn forward(&self, input: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let widened = match &self.widen {
            Some(widen) => widen.forward(input, train)?,
            None => input.shallow_clone(),
        };
        let convolved = self.depthwise.forward(&widened, train)?;
        let scaled = self.squeeze.forward(&convolved)?;
        match self.residual {
            Some(_) if self.narrow.is_folded() => self.narrow.add_to(&scaled, input, Activation::None),
            Some(left_out) => stochastic_depth(self.narrow.forward(&scaled, train)?, left_out, train)?.f_add_(input),
            None => self.narrow.forward(&scaled, train),
        }
    }
}

impl EfficientNet {
    fn units(&mut self) -> impl Iterator<Item = &mut ConvNorm> {
        let EfficientNet { stem, blocks, last, .. } = self;
        let in_blocks =
            blocks.iter_mut().flat_map(|block| block.widen.iter_mut().chain([&mut block.depthwise, &mut block.narrow]));
        in_blocks.chain([stem, last])
    }
}

impl Net for EfficientNet {
    fn features(&self, images: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let mut features = self.stem.forward(images, train)?;
        for block in &self.blocks {
            features = block.forward(&features, train)?;
        }
        self.last.forward(&features, train)
    }

    fn head(&self, features: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let features = features.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?;
        self.classifier.forward(&dropout(features, self.dropout, train)?)
    }

    fn freeze(&mut self, prefixes: &[String]) {
        for block in self.blocks.iter_mut().filter(|block| is_below(&block.name, prefixes)) {
            block.residual = block.residual.map(|_| 0.0);
        }
        for norm in self.norms() {
            norm.freeze(prefixes);
        }
    }

    fn norms(&mut self) -> Vec<&mut BatchNorm2d> {
        self.units().filter_map(ConvNorm::norm).collect()
    }

    fn fold(&mut self, folding: Folding) -> Result<(), TchError> {
        for block in &mut self.blocks {
            block.squeeze.fold(folding)?;
        }
        self.units().try_for_each(|unit| unit.fold(folding))
    }
}
