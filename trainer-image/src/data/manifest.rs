//! From the manifest's words to this module's settings.

use crds::data as crd;

use super::augment::{Augmentation, RandomCrop};
use super::dataset::Format;
use super::policy::Policy;
use super::preprocessing::Preprocessing;

impl From<&crd::Data> for Preprocessing {
    fn from(data: &crd::Data) -> Self {
        Self {
            mean: data.normalization.mean.map(|value| value as f32),
            standard_deviation: data.normalization.std.map(|value| value as f32),
            ..Self::for_size(data.image_size)
        }
    }
}

/// What blends a whole batch (mixup, CutMix) is not here: it comes after the batch is made, in `crate::loss`.
impl From<&crd::Augmentation> for Augmentation {
    fn from(given: &crd::Augmentation) -> Self {
        let part = &given.random_resized_crop;
        let colors = given.color_jitter.clone().unwrap_or_default();
        Self {
            crop: (given.crop == crd::Crop::RandomResized).then_some(RandomCrop {
                scale: [part.min_scale, part.max_scale],
                ratio: [part.min_ratio, part.max_ratio],
            }),
            horizontal_flip: given.horizontal_flip,
            vertical_flip: given.vertical_flip,
            rotation: given.rotation_degrees,
            translation: given.translate,
            policy: match given.policy {
                crd::AugmentationPolicy::None => None,
                crd::AugmentationPolicy::RandAugment => Some(Policy::RandAugment),
                crd::AugmentationPolicy::TrivialAugment => Some(Policy::TrivialAugment),
            },
            brightness: colors.brightness,
            contrast: colors.contrast,
            saturation: colors.saturation,
            hue: colors.hue,
        }
    }
}

impl From<crd::DataFormat> for Format {
    fn from(format: crd::DataFormat) -> Self {
        match format {
            crd::DataFormat::Auto => Self::Auto,
            crd::DataFormat::ImageFolder => Self::ImageFolder,
            crd::DataFormat::Csv => Self::Csv,
            crd::DataFormat::JsonLines => Self::JsonLines,
            crd::DataFormat::Parquet => Self::Parquet,
            crd::DataFormat::WebDataset => Self::WebDataset,
        }
    }
}
