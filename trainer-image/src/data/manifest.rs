//! From the manifest's words to this module's settings.

use crds::data as crd;

use super::augment::{Augmentation, RandomCrop};
use super::dataset::Format;
use super::error::DataError;
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

/// Of the policies and of what blends a whole batch (mixup, CutMix) nothing is here: a manifest that asks for them is refused
/// when it is validated.
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
            brightness: colors.brightness,
            contrast: colors.contrast,
            saturation: colors.saturation,
            hue: colors.hue,
        }
    }
}

impl TryFrom<crd::DataFormat> for Format {
    type Error = DataError;

    /// Fails for Parquet, which is not read yet.
    fn try_from(format: crd::DataFormat) -> Result<Self, DataError> {
        match format {
            crd::DataFormat::Auto => Ok(Self::Auto),
            crd::DataFormat::ImageFolder => Ok(Self::ImageFolder),
            crd::DataFormat::Csv => Ok(Self::Csv),
            crd::DataFormat::JsonLines => Ok(Self::JsonLines),
            crd::DataFormat::Parquet => Err(DataError::Format { format: "Parquet" }),
        }
    }
}
