//! What is trained: the architecture, the weights it starts from, and how models are referred to everywhere.

use std::fmt;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the images are turned into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Task {
    /// One class for each image.
    #[default]
    ImageClassification,
    /// Boxes with classes for each image.
    ObjectDetection,
}

/// Architectures, named as torchvision names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each variant is the torchvision function of that name")]
pub enum Architecture {
    #[default]
    Resnet18,
    Resnet34,
    Resnet50,
    Resnet101,
    Resnet152,
    EfficientnetB0,
    EfficientnetB1,
    EfficientnetB2,
    EfficientnetB3,
    EfficientnetB4,
    EfficientnetB5,
    EfficientnetB6,
    EfficientnetB7,
    MobilenetV3Small,
    MobilenetV3Large,
    ConvnextTiny,
    ConvnextBase,
    #[serde(rename = "vit_b_16")]
    VitB16,
}

impl Architecture {
    /// Every architecture, in the order of the schema.
    pub const ALL: [Architecture; 18] = [
        Architecture::Resnet18,
        Architecture::Resnet34,
        Architecture::Resnet50,
        Architecture::Resnet101,
        Architecture::Resnet152,
        Architecture::EfficientnetB0,
        Architecture::EfficientnetB1,
        Architecture::EfficientnetB2,
        Architecture::EfficientnetB3,
        Architecture::EfficientnetB4,
        Architecture::EfficientnetB5,
        Architecture::EfficientnetB6,
        Architecture::EfficientnetB7,
        Architecture::MobilenetV3Small,
        Architecture::MobilenetV3Large,
        Architecture::ConvnextTiny,
        Architecture::ConvnextBase,
        Architecture::VitB16,
    ];

    /// torchvision's name, which is also the one in manifests and in `model.json`.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Resnet18 => "resnet18",
            Architecture::Resnet34 => "resnet34",
            Architecture::Resnet50 => "resnet50",
            Architecture::Resnet101 => "resnet101",
            Architecture::Resnet152 => "resnet152",
            Architecture::EfficientnetB0 => "efficientnet_b0",
            Architecture::EfficientnetB1 => "efficientnet_b1",
            Architecture::EfficientnetB2 => "efficientnet_b2",
            Architecture::EfficientnetB3 => "efficientnet_b3",
            Architecture::EfficientnetB4 => "efficientnet_b4",
            Architecture::EfficientnetB5 => "efficientnet_b5",
            Architecture::EfficientnetB6 => "efficientnet_b6",
            Architecture::EfficientnetB7 => "efficientnet_b7",
            Architecture::MobilenetV3Small => "mobilenet_v3_small",
            Architecture::MobilenetV3Large => "mobilenet_v3_large",
            Architecture::ConvnextTiny => "convnext_tiny",
            Architecture::ConvnextBase => "convnext_base",
            Architecture::VitB16 => "vit_b_16",
        }
    }
}

impl Architecture {
    /// Whether it has batch norms, whose statistics processes may share.
    pub fn has_batch_norm(self) -> bool {
        !matches!(self, Architecture::ConvnextTiny | Architecture::ConvnextBase | Architecture::VitB16)
    }

    /// Stages that [`FineTuning::stages`] counts: all layers but the last one, which is trained in any case.
    pub fn stages(self) -> u32 {
        match self {
            Architecture::Resnet18
            | Architecture::Resnet34
            | Architecture::Resnet50
            | Architecture::Resnet101
            | Architecture::Resnet152
            | Architecture::ConvnextTiny
            | Architecture::ConvnextBase => 5,
            Architecture::MobilenetV3Small | Architecture::MobilenetV3Large => 6,
            Architecture::EfficientnetB0
            | Architecture::EfficientnetB1
            | Architecture::EfficientnetB2
            | Architecture::EfficientnetB3
            | Architecture::EfficientnetB4
            | Architecture::EfficientnetB5
            | Architecture::EfficientnetB6
            | Architecture::EfficientnetB7 => 9,
            Architecture::VitB16 => 13,
        }
    }

    /// Which images it takes. The networks that end in a mean over the image take any that its strides leave something of;
    /// a vision transformer takes what its patches fill.
    pub fn image_sizes(self) -> ImageSizes {
        match self {
            Architecture::ConvnextTiny | Architecture::ConvnextBase => ImageSizes { least: 32, step: 1 },
            Architecture::VitB16 => ImageSizes { least: 16, step: 16 },
            _ => ImageSizes { least: 1, step: 1 },
        }
    }
}

/// Heights and widths of images, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSizes {
    /// The least.
    pub least: u32,
    /// All are multiples of this.
    pub step: u32,
}

impl ImageSizes {
    /// Whether a size is one of them.
    pub fn contain(self, size: u32) -> bool {
        size >= self.least && size.is_multiple_of(self.step)
    }
}

impl fmt::Display for ImageSizes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            1 => write!(formatter, "{} pixels or more", self.least),
            step => write!(formatter, "a multiple of {step} pixels"),
        }
    }
}

/// The network and the weights it starts from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Model {
    /// Architecture, under torchvision's name. Its last layer gets as many outputs as the data has classes.
    pub architecture: Architecture,
    /// Weights to start from. Without them the network starts from torchvision's random initialisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_weights: Option<InitialWeights>,
    /// Which layers are trained.
    pub fine_tuning: FineTuning,
}

/// Weights to start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InitialWeights {
    /// A model folder of Trainyard's, a safetensors file, or a PyTorch state dict (.pth), with torchvision's names or timm's.
    #[schemars(schema_with = "crate::schema::readable_uri")]
    pub uri: String,
}

/// Which layers are trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FineTuning {
    /// All: every layer. HeadOnly: the last layer alone. LastStages: the last layer and that many stages before it.
    pub strategy: FineTuningStrategy,
    /// Stages trained besides the last layer, counted from the output; 1 if absent. Only with strategy LastStages. A resnet
    /// or convnext has 5, a mobilenet_v3 6, an efficientnet 9, vit_b_16 13.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 12))]
    pub stages: Option<u32>,
}

/// Which layers are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FineTuningStrategy {
    /// Every layer.
    #[default]
    All,
    /// The last layer alone.
    HeadOnly,
    /// The last layer and some stages before it.
    LastStages,
}

/// A trained model: a folder, or the job that trained it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.uri) != has(self.trainingJob)")
    .message("give either uri (a model folder) or trainingJob (the name of a TrainingJob in this namespace), not both"))]
pub struct ModelRef {
    /// URI of a model folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::readable_uri")]
    pub uri: Option<String>,
    /// Name of a TrainingJob in the same namespace, whose model is meant. It is waited for if it is still running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::resource_name")]
    pub training_job: Option<String>,
}
