//! ViT-B/16 (Dosovitskiy et al. 2021), as torchvision builds it, for any image size that patches of 16 pixels fill.
//!
//! Stages for fine-tuning are the embedding (`conv_proj`, `class_token`, `encoder.pos_embedding`) and each of the twelve
//! layers of the encoder; the last norm belongs to the twelfth. Then comes the head, `heads.head`.

use crds::model::Architecture;
use tch::{TchError, Tensor};

use super::conv::{Conv2d, Kernel};
use super::init::Init;
use super::layers::{BatchNorm2d, LayerNorm, Linear};
use super::state::State;
use super::{Built, Folding, Net};

/// Name of the tensor whose length depends on the image size, of shape `[1, patches + 1, 768]`.
pub(super) const POSITIONS: &str = "encoder.pos_embedding";
/// Edge of a patch in pixels.
const PATCH: i64 = 16;
const LAYERS: usize = 12;
const HEADS: i64 = 12;
const HIDDEN: i64 = 768;
const MLP: i64 = 3072;
const ZERO: Init = Init::Constant(0.0);

/// For which images.
pub(super) struct Shape {
    patches: i64,
}

impl Shape {
    /// The shape of a vision transformer for square images of `image_size` pixels, a multiple of 16; `None` for any other
    /// architecture.
    pub(super) fn of(architecture: Architecture, image_size: i64) -> Option<Shape> {
        let edge = image_size / PATCH;
        (architecture == Architecture::VitB16).then_some(Shape { patches: edge * edge })
    }
}

struct VisionTransformer {
    class_token: Tensor,
    conv_proj: Conv2d,
    positions: Tensor,
    layers: Vec<Layer>,
    norm: LayerNorm,
    head: Linear,
}

struct Layer {
    norm_1: LayerNorm,
    attention: Attention,
    norm_2: LayerNorm,
    widen: Linear,
    narrow: Linear,
}

/// `torch.nn.MultiheadAttention` of a sequence to itself.
struct Attention {
    projections: Linear,
    output: Linear,
}

/// Builds the network and names its stages.
pub(super) fn build(shape: &Shape, classes: i64, state: &mut State) -> Built {
    let class_token = state.draw("class_token".to_owned(), &[1, 1, HIDDEN], ZERO);
    let deviation = (1.0 / (3 * PATCH * PATCH) as f64).sqrt();
    let kernel = Kernel::patches(3, HIDDEN, PATCH);
    let conv_proj = Conv2d::with_bias(state, "conv_proj", kernel, Init::TruncatedNormal(deviation));
    let positions = state.draw(POSITIONS.to_owned(), &[1, shape.patches + 1, HIDDEN], Init::Normal(0.02));
    let names: Vec<String> = (0..LAYERS).map(|index| format!("encoder.layers.encoder_layer_{index}")).collect();
    let layers = names.iter().map(|name| Layer::new(state, name)).collect();
    let norm = LayerNorm::new(state, "encoder.ln", HIDDEN);
    let head = Linear::new(state, "heads.head", (HIDDEN, classes), ZERO, ZERO);
    let embedding = ["conv_proj", "class_token", POSITIONS].map(str::to_owned).to_vec();
    let mut stages = vec![embedding];
    stages.extend(names.into_iter().map(|name| vec![name]));
    stages[LAYERS].push("encoder.ln".to_owned());
    stages.push(vec!["heads.head".to_owned()]);
    (Box::new(VisionTransformer { class_token, conv_proj, positions, layers, norm, head }), stages)
}

impl Layer {
    fn new(state: &mut State, name: &str) -> Layer {
        let bias = Init::Normal(1e-6);
        let xavier = Init::xavier(HIDDEN, MLP);
        Layer {
            norm_1: LayerNorm::new(state, &format!("{name}.ln_1"), HIDDEN),
            attention: Attention::new(state, &format!("{name}.self_attention")),
            norm_2: LayerNorm::new(state, &format!("{name}.ln_2"), HIDDEN),
            widen: Linear::new(state, &format!("{name}.mlp.0"), (HIDDEN, MLP), xavier, bias),
            narrow: Linear::new(state, &format!("{name}.mlp.3"), (MLP, HIDDEN), xavier, bias),
        }
    }

    /// torchvision's dropouts have the probability 0 in this network, so that training computes the same.
    fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let attended = self.attention.forward(&self.norm_1.forward(input)?)?.f_add(input)?;
        let widened = self.widen.forward(&self.norm_2.forward(&attended)?)?.f_gelu("none")?;
        attended.f_add(&self.narrow.forward(&widened)?)
    }
}

impl Attention {
    fn new(state: &mut State, name: &str) -> Attention {
        // The output's weight has the default of a linear layer.
        let uniform = Init::Uniform(1.0 / (HIDDEN as f64).sqrt());
        Attention {
            projections: Linear::named(
                state,
                [format!("{name}.in_proj_weight"), format!("{name}.in_proj_bias")],
                (HIDDEN, 3 * HIDDEN),
                Init::xavier(HIDDEN, 3 * HIDDEN),
                ZERO,
            ),
            output: Linear::new(state, &format!("{name}.out_proj"), (HIDDEN, HIDDEN), uniform, ZERO),
        }
    }

    /// For a sequence of shape `[batch, length, hidden]`, in the order of operations of PyTorch's
    /// `multi_head_attention_forward`.
    fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let (batch, length, _) = input.size3()?;
        let packed = self.projections.forward(&input.f_transpose(0, 1)?)?.f_unflatten(-1, [3, HIDDEN])?;
        let packed = packed.f_unsqueeze(0)?.f_transpose(0, -2)?.f_squeeze_dim(-2)?.f_contiguous()?;
        let part = |index: i64| -> Result<Tensor, TchError> {
            let heads = packed.f_select(0, index)?.f_view([length, batch * HEADS, HIDDEN / HEADS])?;
            heads.f_transpose(0, 1)?.f_view([batch, HEADS, length, HIDDEN / HEADS])
        };
        let (query, key, value) = (part(0)?, part(1)?, part(2)?);
        let mask = None::<&Tensor>;
        let attended =
            Tensor::f_scaled_dot_product_attention(&query, &key, &value, mask, 0.0, false, None::<f64>, false)?;
        let rows = attended.f_permute([2, 0, 1, 3])?.f_contiguous()?.f_view([batch * length, HIDDEN])?;
        self.output.forward(&rows)?.f_view([length, batch, HIDDEN])?.f_transpose(0, 1)
    }
}

impl Net for VisionTransformer {
    /// The sequence before the last layer, which gathers in the class token what the head looks at.
    fn features(&self, images: &Tensor, _train: bool) -> Result<Tensor, TchError> {
        let patches = self.conv_proj.forward(images)?;
        let batch = patches.size()[0];
        let patches = patches.f_reshape([batch, HIDDEN, -1])?.f_permute([0, 2, 1])?;
        let token = self.class_token.f_expand([batch, -1, -1], false)?;
        let mut sequence = Tensor::f_cat(&[token, patches], 1)?.f_add(&self.positions)?;
        for layer in &self.layers[..LAYERS - 1] {
            sequence = layer.forward(&sequence)?;
        }
        Ok(sequence)
    }

    fn head(&self, features: &Tensor, _train: bool) -> Result<Tensor, TchError> {
        let sequence = self.layers[LAYERS - 1].forward(features)?;
        self.head.forward(&self.norm.forward(&sequence)?.f_select(1, 0)?)
    }

    fn maps(&self, features: &Tensor) -> Result<Tensor, TchError> {
        let (batch, length, _) = features.size3()?;
        let edge = ((length - 1) as f64).sqrt().round() as i64;
        features.f_slice(1, 1, None, 1)?.f_permute([0, 2, 1])?.f_reshape([batch, HIDDEN, edge, edge])
    }

    fn freeze(&mut self, _prefixes: &[String]) {
        // No layer keeps statistics, and none is random.
    }

    fn norms(&mut self) -> Vec<&mut BatchNorm2d> {
        Vec::new()
    }

    fn fold(&mut self, folding: Folding) -> Result<(), TchError> {
        self.conv_proj.fold(None, folding)
    }
}

/// The positional embedding for another number of patches, both square: torchvision's `interpolate_embeddings`, bicubic,
/// with the class token's left alone. `None` where the shapes are of another kind.
pub(super) fn resize_positions(positions: &Tensor, length: i64) -> Result<Option<Tensor>, TchError> {
    let &[1, old_length, hidden] = positions.size().as_slice() else { return Ok(None) };
    let edge = |length: i64| {
        let edge = ((length - 1).max(0) as f64).sqrt().round() as i64;
        (edge > 0 && edge * edge == length - 1).then_some(edge)
    };
    let (Some(old), Some(new)) = (edge(old_length), edge(length)) else { return Ok(None) };
    let token = positions.f_slice(1, 0, 1, 1)?;
    let grid = positions.f_slice(1, 1, None, 1)?.f_permute([0, 2, 1])?.f_reshape([1, hidden, old, old])?;
    let resized = grid.f_upsample_bicubic2d([new, new], true, None::<f64>, None::<f64>)?;
    let resized = resized.f_reshape([1, hidden, new * new])?.f_permute([0, 2, 1])?;
    Ok(Some(Tensor::f_cat(&[token, resized], 1)?))
}
