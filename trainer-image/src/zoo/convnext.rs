//! ConvNeXt tiny and base (Liu et al. 2022), as torchvision builds them.
//!
//! Stages for fine-tuning are the stem and the paper's four stages, each with the layers that halve the image before it;
//! the last norm belongs to the fourth. Then comes the head, `classifier.2`.

use crds::model::Architecture;
use tch::{TchError, Tensor};

use super::conv::{Conv2d, Kernel};
use super::init::Init;
use super::layers::{BatchNorm2d, LayerNorm, Linear};
use super::noise::stochastic_depth;
use super::state::{State, is_below};
use super::{Built, Folding, Net};

/// Channels and blocks of the four stages.
pub(super) struct Shape {
    stages: [(i64, usize); 4],
    /// Probability of leaving out the last block; it grows from 0 linearly.
    stochastic_depth: f64,
}

impl Shape {
    /// The shape of a ConvNeXt; `None` for any other architecture.
    pub(super) fn of(architecture: Architecture) -> Option<Shape> {
        let (stages, stochastic_depth) = match architecture {
            Architecture::ConvnextTiny => ([(96, 3), (192, 3), (384, 9), (768, 3)], 0.1),
            Architecture::ConvnextBase => ([(128, 3), (256, 3), (512, 27), (1024, 3)], 0.5),
            _ => return None,
        };
        Some(Shape { stages, stochastic_depth })
    }
}

/// Of every convolution and linear layer.
const WEIGHT: Init = Init::TruncatedNormal(0.02);
const ZERO: Init = Init::Constant(0.0);
/// Factor of a block's result at first.
const LAYER_SCALE: Init = Init::Constant(1e-6);

struct ConvNeXt {
    stem: (Conv2d, LayerNorm),
    stages: Vec<Stage>,
    norm: LayerNorm,
    head: Linear,
}

struct Stage {
    halving: Option<(LayerNorm, Conv2d)>,
    blocks: Vec<Block>,
}

/// A residual block: convolve each channel, norm, two linear layers over the channels.
struct Block {
    name: String,
    /// None once it is part of `narrow`.
    layer_scale: Option<Tensor>,
    conv: Conv2d,
    norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
    left_out: f64,
}

/// Builds the network and names its stages.
pub(super) fn build(shape: &Shape, classes: i64, state: &mut State) -> Built {
    let mut channels = shape.stages[0].0;
    let stem = (
        Conv2d::with_bias(state, "features.0.0", Kernel::patches(3, channels, 4), WEIGHT),
        LayerNorm::new(state, "features.0.1", channels),
    );
    let total: usize = shape.stages.iter().map(|(_, blocks)| blocks).sum();
    let mut built = 0;
    let mut stages = Vec::new();
    for (index, &(width, count)) in shape.stages.iter().enumerate() {
        let halving = (index > 0).then(|| {
            let name = format!("features.{}", 2 * index);
            let norm = LayerNorm::new(state, &format!("{name}.0"), channels);
            let kernel = Kernel::patches(channels, width, 2);
            (norm, Conv2d::with_bias(state, &format!("{name}.1"), kernel, WEIGHT))
        });
        channels = width;
        let blocks = (0..count).map(|block| {
            let left_out = shape.stochastic_depth * (built + block) as f64 / (total as f64 - 1.0);
            Block::new(state, &format!("features.{}.{block}", 2 * index + 1), channels, left_out)
        });
        stages.push(Stage { halving, blocks: blocks.collect() });
        built += count;
    }
    let norm = LayerNorm::new(state, "classifier.0", channels);
    let head = Linear::new(state, "classifier.2", (channels, classes), WEIGHT, ZERO);
    let names = [
        &["features.0"][..],
        &["features.1"],
        &["features.2", "features.3"],
        &["features.4", "features.5"],
        &["features.6", "features.7", "classifier.0"],
        &["classifier.2"],
    ];
    let names = names.into_iter().map(|stage| stage.iter().map(ToString::to_string).collect()).collect();
    (Box::new(ConvNeXt { stem, stages, norm, head }), names)
}

impl Block {
    fn new(state: &mut State, name: &str, channels: i64, left_out: f64) -> Block {
        Block {
            layer_scale: Some(state.draw(format!("{name}.layer_scale"), &[channels, 1, 1], LAYER_SCALE)),
            conv: Conv2d::with_bias(state, &format!("{name}.block.0"), Kernel::depthwise(channels, 7), WEIGHT),
            norm: LayerNorm::new(state, &format!("{name}.block.2"), channels),
            widen: Linear::new(state, &format!("{name}.block.3"), (channels, 4 * channels), WEIGHT, ZERO),
            narrow: Linear::new(state, &format!("{name}.block.5"), (4 * channels, channels), WEIGHT, ZERO),
            left_out,
            name: name.to_owned(),
        }
    }

    fn forward(&self, input: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let channels_last = self.norm.forward(&self.conv.forward(input)?.f_permute([0, 2, 3, 1])?)?;
        let output = self.narrow.forward(&self.widen.forward(&channels_last)?.f_gelu("none")?)?;
        let output = output.f_permute([0, 3, 1, 2])?;
        let output = match &self.layer_scale {
            Some(layer_scale) => layer_scale.f_mul(&output)?,
            None => output,
        };
        stochastic_depth(output, self.left_out, train)?.f_add_(input)
    }
}

impl Net for ConvNeXt {
    fn features(&self, images: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let mut features = self.stem.1.forward_channels(&self.stem.0.forward(images)?)?;
        for stage in &self.stages {
            if let Some((norm, conv)) = &stage.halving {
                features = conv.forward(&norm.forward_channels(&features)?)?;
            }
            for block in &stage.blocks {
                features = block.forward(&features, train)?;
            }
        }
        Ok(features)
    }

    fn head(&self, features: &Tensor, _train: bool) -> Result<Tensor, TchError> {
        let pooled = self.norm.forward_channels(&features.f_adaptive_avg_pool2d([1, 1])?)?;
        self.head.forward(&pooled.f_flatten(1, -1)?)
    }

    fn freeze(&mut self, prefixes: &[String]) {
        for block in self.stages.iter_mut().flat_map(|stage| &mut stage.blocks) {
            if is_below(&block.name, prefixes) {
                block.left_out = 0.0;
            }
        }
    }

    fn norms(&mut self) -> Vec<&mut BatchNorm2d> {
        Vec::new()
    }

    fn fold(&mut self, folding: Folding) -> Result<(), TchError> {
        self.stem.0.fold(None, folding)?;
        for stage in &mut self.stages {
            if let Some((_, conv)) = &mut stage.halving {
                conv.fold(None, folding)?;
            }
            for block in &mut stage.blocks {
                block.conv.fold(None, folding)?;
                if let Some(layer_scale) = block.layer_scale.take() {
                    block.narrow.fold(&layer_scale, folding)?;
                }
            }
        }
        Ok(())
    }
}
