//! Other names for the zoo's tensors: those that timm (huggingface/pytorch-image-models) gives the same networks, and those
//! of older versions of torchvision. Weights under either become weights under torchvision's names.

use std::collections::{BTreeMap, BTreeSet};

use crds::model::Architecture;
use tch::{TchError, Tensor};

use super::layers::NormConstants;

/// What wraps a model whose state dict was saved puts before every name: DistributedDataParallel, `torch.compile`.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// Weights by the names of torchvision's state dict.
pub(super) struct Renamed {
    pub(super) tensors: BTreeMap<String, Tensor>,
    /// Whether they had timm's names.
    pub(super) from_timm: bool,
}

/// Gives weights torchvision's names, of which `names` are all that the model has. What has no such name keeps its own.
///
/// timm's batch norms of MobileNetV3 and EfficientNet B5 to B7 add 1e-5 to the variance where torchvision's add 1e-3; the
/// running variances take the difference, so that the network computes what timm's did.
pub(super) fn to_torchvision(
    architecture: Architecture,
    names: &BTreeMap<&str, Vec<i64>>,
    tensors: BTreeMap<String, Tensor>,
) -> Result<Renamed, TchError> {
    let known: BTreeSet<&str> = names.keys().copied().collect();
    let by_timm: BTreeMap<String, &str> =
        known.iter().filter_map(|name| Some((timm(architecture, name, &known)?, *name))).collect();
    let by_older: BTreeMap<String, &str> =
        known.iter().filter_map(|name| Some((older(architecture, name)?, *name))).collect();
    let epsilon_shift = NormConstants::DEFAULT.epsilon - constants(architecture).epsilon;
    let mut renamed = Renamed { tensors: BTreeMap::new(), from_timm: false };
    for (given, tensor) in unwrapped(tensors) {
        if known.contains(given.as_str()) {
            renamed.tensors.insert(given, tensor);
        } else if let Some(name) = by_timm.get(&given) {
            let mut tensor = without_ones(tensor, &names[name])?;
            // One that is misshapen is refused when all are compared.
            if name.ends_with(".running_var") && epsilon_shift != 0.0 && tensor.size() == names[name] {
                tensor = tensor.f_add_scalar(epsilon_shift)?;
            }
            renamed.from_timm = true;
            renamed.tensors.insert((*name).to_owned(), tensor);
        } else {
            let name = by_older.get(&given).map_or(given, |name| (*name).to_owned());
            renamed.tensors.insert(name, tensor);
        }
    }
    Ok(renamed)
}

/// Constants of a network's batch norms.
fn constants(architecture: Architecture) -> NormConstants {
    use Architecture as A;
    match architecture {
        A::MobilenetV3Small | A::MobilenetV3Large | A::EfficientnetB5 | A::EfficientnetB6 | A::EfficientnetB7 => {
            NormConstants::TENSORFLOW
        }
        _ => NormConstants::DEFAULT,
    }
}

/// The same weights without what wrapped the model.
fn unwrapped(mut tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    while let Some(wrapper) =
        WRAPPERS.into_iter().find(|wrapper| !tensors.is_empty() && tensors.keys().all(|name| name.starts_with(wrapper)))
    {
        tensors = tensors.into_iter().map(|(name, tensor)| (name[wrapper.len()..].to_owned(), tensor)).collect();
    }
    tensors
}

/// A tensor in another shape, if that differs in dimensions of 1 alone: timm writes a linear layer as a convolution of one
/// pixel, and factors of channels as a vector.
fn without_ones(tensor: Tensor, shape: &[i64]) -> Result<Tensor, TchError> {
    let essence = |shape: &[i64]| shape.iter().copied().filter(|extent| *extent != 1).collect::<Vec<_>>();
    if essence(&tensor.size()) == essence(shape) { tensor.f_reshape(shape) } else { Ok(tensor) }
}

/// timm's name for torchvision's, where it differs.
fn timm(architecture: Architecture, name: &str, known: &BTreeSet<&str>) -> Option<String> {
    use Architecture as A;
    match architecture {
        A::Resnet18 | A::Resnet34 | A::Resnet50 | A::Resnet101 | A::Resnet152 => None,
        A::EfficientnetB0
        | A::EfficientnetB1
        | A::EfficientnetB2
        | A::EfficientnetB3
        | A::EfficientnetB4
        | A::EfficientnetB5
        | A::EfficientnetB6
        | A::EfficientnetB7 => timm_efficientnet(name, known),
        A::MobilenetV3Small => timm_mobilenet(name, known, &[1, 2, 3, 2, 3]),
        A::MobilenetV3Large => timm_mobilenet(name, known, &[1, 2, 3, 4, 2, 3]),
        A::ConvnextTiny | A::ConvnextBase => timm_convnext(name),
        A::VitB16 => timm_vit(name),
    }
}

/// Replaces the first of these beginnings that a name has.
fn replaced(name: &str, beginnings: &[(&str, &str)]) -> Option<String> {
    beginnings.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", name.strip_prefix(ours)?)))
}

fn timm_efficientnet(name: &str, known: &BTreeSet<&str>) -> Option<String> {
    let outside = [
        ("features.0.0.", "conv_stem."),
        ("features.0.1.", "bn1."),
        ("features.8.0.", "conv_head."),
        ("features.8.1.", "bn2."),
        ("classifier.1.", "classifier."),
    ];
    replaced(name, &outside).or_else(|| {
        let (stage, rest) = name.strip_prefix("features.")?.split_once('.')?;
        let (block, rest) = rest.split_once(".block.")?;
        let stage: usize = stage.parse().ok()?;
        let layer = timm_layer(&format!("features.{stage}.{block}.block"), rest, known)?;
        Some(format!("blocks.{}.{block}.{layer}", stage - 1))
    })
}

/// timm counts blocks within the stages, of which `stages` are the sizes; torchvision counts through.
fn timm_mobilenet(name: &str, known: &BTreeSet<&str>, stages: &[usize]) -> Option<String> {
    let (index, rest) = match name.strip_prefix("features.") {
        Some(name) => name.split_once('.')?,
        None => return replaced(name, &[("classifier.0.", "conv_head."), ("classifier.3.", "classifier.")]),
    };
    let mut place: usize = index.parse().ok()?;
    if place == 0 {
        return replaced(rest, &[("0.", "conv_stem."), ("1.", "bn1.")]);
    }
    place -= 1;
    let mut stage = 0;
    while stage < stages.len() && place >= stages[stage] {
        place -= stages[stage];
        stage += 1;
    }
    let layer = match rest.strip_prefix("block.") {
        Some(layer) => timm_layer(&format!("features.{index}.block"), layer, known)?,
        None => replaced(rest, &[("0.", "conv."), ("1.", "bn1.")])?,
    };
    Some(format!("blocks.{stage}.{place}.{layer}"))
}

/// timm's name for a layer of an inverted residual block, which are numbered in torchvision: `rest` is what follows `block.`
/// in its name. A block that doesn't widen begins with the convolution of each channel.
fn timm_layer(block: &str, rest: &str, known: &BTreeSet<&str>) -> Option<String> {
    let (place, rest) = rest.split_once('.')?;
    let place: usize = place.parse().ok()?;
    let squeezes = |place: usize| known.contains(format!("{block}.{place}.fc1.weight").as_str());
    if squeezes(place) {
        return replaced(rest, &[("fc1.", "se.conv_reduce."), ("fc2.", "se.conv_expand.")]);
    }
    let is_conv = |place: &usize| known.contains(format!("{block}.{place}.0.weight").as_str());
    let convolutions = (0..4).filter(is_conv).count();
    let before = (0..place).filter(is_conv).count();
    let names: &[&str] = if convolutions == 3 { &["conv_pw", "conv_dw", "conv_pwl"] } else { &["conv_dw", "conv_pw"] };
    let norm = format!("bn{}.", before + 1);
    replaced(rest, &[("0.", &format!("{}.", names.get(before)?)), ("1.", &norm)])
}

fn timm_convnext(name: &str) -> Option<String> {
    let outside = [
        ("features.0.0.", "stem.0."),
        ("features.0.1.", "stem.1."),
        ("classifier.0.", "head.norm."),
        ("classifier.2.", "head.fc."),
    ];
    replaced(name, &outside).or_else(|| {
        let (index, rest) = name.strip_prefix("features.")?.split_once('.')?;
        let index: usize = index.parse().ok()?;
        if index.is_multiple_of(2) {
            return Some(format!("stages.{}.downsample.{rest}", index / 2));
        }
        let (block, rest) = rest.split_once('.')?;
        let layers = [
            ("layer_scale", "gamma"),
            ("block.0.", "conv_dw."),
            ("block.2.", "norm."),
            ("block.3.", "mlp.fc1."),
            ("block.5.", "mlp.fc2."),
        ];
        Some(format!("stages.{}.blocks.{block}.{}", index / 2, replaced(rest, &layers)?))
    })
}

fn timm_vit(name: &str) -> Option<String> {
    let outside = [
        ("class_token", "cls_token"),
        ("conv_proj.", "patch_embed.proj."),
        ("encoder.pos_embedding", "pos_embed"),
        ("encoder.ln.", "norm."),
        ("heads.head.", "head."),
    ];
    replaced(name, &outside).or_else(|| {
        let (layer, rest) = name.strip_prefix("encoder.layers.encoder_layer_")?.split_once('.')?;
        let layers = [
            ("ln_1.", "norm1."),
            ("self_attention.in_proj_", "attn.qkv."),
            ("self_attention.out_proj.", "attn.proj."),
            ("ln_2.", "norm2."),
            ("mlp.0.", "mlp.fc1."),
            ("mlp.3.", "mlp.fc2."),
        ];
        Some(format!("blocks.{layer}.{}", replaced(rest, &layers)?))
    })
}

/// What torchvision called a tensor before version 0.14, where it differs.
fn older(architecture: Architecture, name: &str) -> Option<String> {
    let is_layer = architecture == Architecture::VitB16 && name.contains(".mlp.");
    is_layer.then(|| name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."))
}
