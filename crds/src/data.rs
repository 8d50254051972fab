//! What a model is trained on: where the images are, how they are split, sized, altered and normalised.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Mean of ImageNet's red, green and blue, in 0 to 1; the customary constant of torchvision's models.
pub const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of ImageNet's red, green and blue, in 0 to 1.
pub const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

/// The images to train on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Data {
    /// Where the images are: a folder with one subfolder for each class, a table (CSV, JSON Lines, Parquet) that lists
    /// them, or tar files that hold them.
    #[schemars(schema_with = "crate::schema::readable_uri")]
    pub uri: String,
    /// How the images are listed. Auto: by the file's ending, and an image folder if the URI is a folder.
    #[serde(default)]
    pub format: DataFormat,
    /// Column of a table that has the image's path, relative to the table, or its URI.
    #[serde(default = "image_column")]
    #[schemars(length(min = 1, max = 256))]
    pub image_column: String,
    /// Column of a table that has the class.
    #[serde(default = "label_column")]
    #[schemars(length(min = 1, max = 256))]
    pub label_column: String,
    /// What the model is judged by after each epoch.
    #[serde(default)]
    pub validation: Validation,
    /// Height and width of the network's input, in pixels.
    #[serde(default = "image_size")]
    #[schemars(range(min = 8, max = 4096))]
    pub image_size: u32,
    /// Random changes to each training image: a random crop and a horizontal flip, as in torchvision's reference recipe, and
    /// what else is set. For none at all, set crop to None and horizontalFlip to 0.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// What is subtracted from each channel, and what it is divided by.
    #[serde(default)]
    pub normalization: Normalization,
    /// Threads of each process that read and decode images. 0: the process's share of its CPUs.
    #[serde(default)]
    #[schemars(range(min = 0, max = 256))]
    pub loader_threads: u32,
    /// Share of the images that may be unreadable, in 0 to 1. They are left out and named in the report; beyond this
    /// share the job fails.
    #[serde(default = "unreadable_fraction")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub unreadable_fraction: f64,
}

impl Data {
    /// Whether there are images that the model is judged by.
    pub fn is_validated(&self) -> bool {
        self.validation.uri.is_some() || self.validation.fraction > 0.0
    }
}

/// How images are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DataFormat {
    /// By the ending of the URI; a folder of class folders if it has none.
    #[default]
    Auto,
    /// A folder with one subfolder for each class.
    ImageFolder,
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object a line.
    JsonLines,
    /// Apache Parquet.
    Parquet,
    /// Tar files of images, KEY.jpg or another image beside KEY.cls (the class) or KEY.json (with the class in labelColumn).
    /// The URI is a tar file, a folder of them, or a range as in train-{0000..0099}.tar.
    WebDataset,
}

/// Where the images that are not trained on come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Validation {
    /// Share of the images of each class that is kept apart, in 0 to 1, drawn by training.seed; 0: no validation. Where uri is
    /// given, all images of data.uri are trained on, whatever this is.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub fraction: f64,
    /// Images of their own, in the format of data.uri.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::readable_uri")]
    pub uri: Option<String>,
}

impl Default for Validation {
    fn default() -> Self {
        Validation { fraction: 0.2, uri: None }
    }
}

/// Random changes to each training image.
///
/// Each field has a default of its own, and the block has none: what a manifest that was changed comes to is what one comes to
/// that was written so from the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Augmentation {
    /// Which part of the image is seen.
    pub crop: Crop,
    /// How the part is drawn where crop is RandomResized.
    pub random_resized_crop: RandomResizedCrop,
    /// Probability of a left-right mirror image, in 0 to 1. Leave at 0 where left and right mean something (digits, text).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub horizontal_flip: f64,
    /// Probability of an upside-down mirror image, in 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub vertical_flip: f64,
    /// Largest rotation in either direction, in degrees.
    #[schemars(range(min = 0.0, max = 180.0))]
    pub rotation_degrees: f64,
    /// Largest shift in each direction, as a share of the image's side.
    #[schemars(range(min = 0.0, max = 0.5))]
    pub translate: f64,
    /// Random changes of colour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<ColorJitter>,
    /// A published set of random operations. RandAugment: two operations of strength 9 of 30. TrivialAugment: one of
    /// random strength.
    pub policy: AugmentationPolicy,
    /// Parameter alpha of mixup: images and labels of a batch are blended. 0: off.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub mixup: f64,
    /// Parameter alpha of CutMix: patches are exchanged within a batch. 0: off. With mixup as well, each batch takes one
    /// of them, each as likely.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub cutmix: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Augmentation {
            crop: Crop::default(),
            random_resized_crop: RandomResizedCrop::default(),
            horizontal_flip: 0.5,
            vertical_flip: 0.0,
            rotation_degrees: 0.0,
            translate: 0.0,
            color_jitter: None,
            policy: AugmentationPolicy::default(),
            mixup: 0.0,
            cutmix: 0.0,
        }
    }
}

/// Which part of a training image is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Crop {
    /// A random part, resized to imageSize.
    #[default]
    RandomResized,
    /// The image as it is scored: resized to imageSize.
    None,
}

/// A random part of the image. The defaults are torchvision's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default = "RandomResizedCrop::default")]
#[x_kube(
    validation = Rule::new("self.minScale <= self.maxScale").message("minScale is larger than maxScale").field_path(".minScale"),
    validation = Rule::new("self.minRatio <= self.maxRatio").message("minRatio is larger than maxRatio").field_path(".minRatio"),
)]
pub struct RandomResizedCrop {
    /// Smallest area of the part, as a share of the image.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub min_scale: f64,
    /// Largest area of the part, as a share of the image.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub max_scale: f64,
    /// Smallest width of the part divided by its height.
    #[schemars(range(min = 0.1, max = 10.0))]
    pub min_ratio: f64,
    /// Largest width of the part divided by its height.
    #[schemars(range(min = 0.1, max = 10.0))]
    pub max_ratio: f64,
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        RandomResizedCrop { min_scale: 0.08, max_scale: 1.0, min_ratio: 0.75, max_ratio: 1.3333 }
    }
}

/// Random changes of colour: each factor is drawn from 1 - value to 1 + value; hue is shifted by -value to value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ColorJitter {
    /// Change of brightness.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub brightness: f64,
    /// Change of contrast.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub contrast: f64,
    /// Change of saturation.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub saturation: f64,
    /// Shift of the hue, as a share of the colour circle.
    #[schemars(range(min = 0.0, max = 0.5))]
    pub hue: f64,
}

/// A published set of random operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AugmentationPolicy {
    /// None of them.
    #[default]
    None,
    /// <https://arxiv.org/abs/1909.13719>
    RandAugment,
    /// <https://arxiv.org/abs/2103.10158>
    TrivialAugment,
}

/// Channels become (value - mean) / std, with values in 0 to 1, for red, green and blue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Normalization {
    /// What is subtracted from red, green and blue.
    #[schemars(inner(range(min = 0.0, max = 1.0)))]
    pub mean: [f64; 3],
    /// What red, green and blue are divided by.
    #[schemars(inner(range(min = 0.001, max = 1.0)))]
    pub std: [f64; 3],
}

impl Default for Normalization {
    fn default() -> Self {
        Normalization { mean: IMAGENET_MEAN, std: IMAGENET_STD }
    }
}

pub(crate) fn image_column() -> String {
    "image".into()
}

pub(crate) fn label_column() -> String {
    "label".into()
}

fn image_size() -> u32 {
    224
}

fn unreadable_fraction() -> f64 {
    0.01
}
