//! MobileNetV3 small and large (Howard et al. 2019), as torchvision builds them.
//!
//! Stages for fine-tuning begin where the image is halved, as in torchvision's backbones: the stem with what follows at
//! its size, C1 to C4, then C5 (the last convolution and the first linear layer), then the head, `classifier.3`.

use crds::model::Architecture;
use tch::{TchError, Tensor};

use super::conv::{ConvNorm, Kernel};
use super::init::Init;
use super::layers::{Activation, BatchNorm2d, Gate, Linear, NormConstants, SqueezeExcitation, multiple_of_8};
use super::noise::dropout;
use super::state::State;
use super::{Built, Folding, Net};

/// A block: inputs, kernel, widened channels, outputs, whether it squeezes and excites, activation, stride.
type Row = (i64, i64, i64, i64, bool, Activation, i64);

/// Which blocks, and the outputs of the first linear layer.
pub(super) struct Shape {
    rows: &'static [Row],
    hidden: i64,
}

const RE: Activation = Activation::Relu;
const HS: Activation = Activation::HardSwish;

/// Table 1 of the paper.
const LARGE: [Row; 15] = [
    (16, 3, 16, 16, false, RE, 1),
    (16, 3, 64, 24, false, RE, 2),
    (24, 3, 72, 24, false, RE, 1),
    (24, 5, 72, 40, true, RE, 2),
    (40, 5, 120, 40, true, RE, 1),
    (40, 5, 120, 40, true, RE, 1),
    (40, 3, 240, 80, false, HS, 2),
    (80, 3, 200, 80, false, HS, 1),
    (80, 3, 184, 80, false, HS, 1),
    (80, 3, 184, 80, false, HS, 1),
    (80, 3, 480, 112, true, HS, 1),
    (112, 3, 672, 112, true, HS, 1),
    (112, 5, 672, 160, true, HS, 2),
    (160, 5, 960, 160, true, HS, 1),
    (160, 5, 960, 160, true, HS, 1),
];

/// Table 2 of the paper.
const SMALL: [Row; 11] = [
    (16, 3, 16, 16, true, RE, 2),
    (16, 3, 72, 24, false, RE, 2),
    (24, 3, 88, 24, false, RE, 1),
    (24, 5, 96, 40, true, HS, 2),
    (40, 5, 240, 40, true, HS, 1),
    (40, 5, 240, 40, true, HS, 1),
    (40, 5, 120, 48, true, HS, 1),
    (48, 5, 144, 48, true, HS, 1),
    (48, 5, 288, 96, true, HS, 2),
    (96, 5, 576, 96, true, HS, 1),
    (96, 5, 576, 96, true, HS, 1),
];

const CONSTANTS: NormConstants = NormConstants::TENSORFLOW;
/// torchvision's choice for both.
const DROPOUT: f64 = 0.2;

impl Shape {
    /// The shape of a MobileNetV3; `None` for any other architecture.
    pub(super) fn of(architecture: Architecture) -> Option<Shape> {
        match architecture {
            Architecture::MobilenetV3Small => Some(Shape { rows: &SMALL, hidden: 1024 }),
            Architecture::MobilenetV3Large => Some(Shape { rows: &LARGE, hidden: 1280 }),
            _ => None,
        }
    }
}

struct MobileNetV3 {
    stem: ConvNorm,
    blocks: Vec<Block>,
    last: ConvNorm,
    hidden: Linear,
    head: Linear,
}

/// An inverted residual block: widen, convolve each channel, squeeze and excite, narrow.
struct Block {
    widen: Option<ConvNorm>,
    depthwise: ConvNorm,
    squeeze: Option<SqueezeExcitation>,
    narrow: ConvNorm,
    residual: bool,
}

/// Builds the network and names its stages.
pub(super) fn build(shape: &Shape, classes: i64, state: &mut State) -> Built {
    let kernel = Kernel::square(3, shape.rows[0].0, 3).stride(2);
    let stem = ConvNorm::new(state, "features.0", kernel, CONSTANTS, HS);
    let mut stages = vec![vec!["features.0".to_owned()]];
    let mut blocks = Vec::new();
    let mut inputs = shape.rows[0].0;
    for row in shape.rows {
        let name = format!("features.{}", blocks.len() + 1);
        blocks.push(Block::new(state, &format!("{name}.block"), row));
        let &(.., outputs, _, _, stride) = row;
        inputs = outputs;
        match stages.last_mut() {
            Some(stage) if stride == 1 => stage.push(name),
            _ => stages.push(vec![name]),
        }
    }
    let name = format!("features.{}", blocks.len() + 1);
    let last = ConvNorm::new(state, &name, Kernel::square(inputs, 6 * inputs, 1), CONSTANTS, HS);
    let (normal, zero) = (Init::Normal(0.01), Init::Constant(0.0));
    let hidden = Linear::new(state, "classifier.0", (6 * inputs, shape.hidden), normal, zero);
    let head = Linear::new(state, "classifier.3", (shape.hidden, classes), normal, zero);
    stages.push(vec![name, "classifier.0".to_owned()]);
    stages.push(vec!["classifier.3".to_owned()]);
    (Box::new(MobileNetV3 { stem, blocks, last, hidden, head }), stages)
}

impl Block {
    fn new(state: &mut State, name: &str, row: &Row) -> Block {
        let &(inputs, edge, widened, outputs, squeezes, activation, stride) = row;
        let mut index = 0;
        let mut next = || {
            index += 1;
            format!("{name}.{}", index - 1)
        };
        let widen = (widened != inputs)
            .then(|| ConvNorm::new(state, &next(), Kernel::square(inputs, widened, 1), CONSTANTS, activation));
        let kernel = Kernel::depthwise(widened, edge).stride(stride);
        let depthwise = ConvNorm::new(state, &next(), kernel, CONSTANTS, activation);
        let squeeze = squeezes.then(|| {
            let channels = (widened, multiple_of_8((widened / 4) as f64));
            SqueezeExcitation::new(state, &next(), channels, RE, Gate::HardSigmoid)
        });
        let narrow = ConvNorm::new(state, &next(), Kernel::square(widened, outputs, 1), CONSTANTS, Activation::None);
        Block { widen, depthwise, squeeze, narrow, residual: stride == 1 && inputs == outputs }
    }

    fn forward(&self, input: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let mut output = match &self.widen {
            Some(widen) => widen.forward(input, train)?,
            None => input.shallow_clone(),
        };
        output = self.depthwise.forward(&output, train)?;
        if let Some(squeeze) = &self.squeeze {
            output = squeeze.forward(&output)?;
        }
        match self.residual {
            true if self.narrow.is_folded() => self.narrow.add_to(&output, input, Activation::None),
            true => self.narrow.forward(&output, train)?.f_add_(input),
            false => self.narrow.forward(&output, train),
        }
    }
}

impl MobileNetV3 {
    fn units(&mut self) -> impl Iterator<Item = &mut ConvNorm> {
        let MobileNetV3 { stem, blocks, last, .. } = self;
        let in_blocks =
            blocks.iter_mut().flat_map(|block| block.widen.iter_mut().chain([&mut block.depthwise, &mut block.narrow]));
        in_blocks.chain([stem, last])
    }
}

impl Net for MobileNetV3 {
    fn features(&self, images: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let mut features = self.stem.forward(images, train)?;
        for block in &self.blocks {
            features = block.forward(&features, train)?;
        }
        self.last.forward(&features, train)
    }

    fn head(&self, features: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let features = features.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?;
        let hidden = HS.apply(self.hidden.forward(&features)?)?;
        self.head.forward(&dropout(hidden, DROPOUT, train)?)
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
        for block in &mut self.blocks {
            if let Some(squeeze) = &mut block.squeeze {
                squeeze.fold(folding)?;
            }
        }
        self.units().try_for_each(|unit| unit.fold(folding))
    }
}
