//! What a model expects of its input. One description serves training, scoring and serving; it is kept in the model folder, and
//! its hash says whether two programs would feed a model the same pixels.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Mean of ImageNet's pixels, red, green and blue, from 0 to 1: what torchvision's weights expect.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of ImageNet's pixels.
const IMAGENET_DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];
/// Raised whenever the same description leads to other pixels than before.
const VERSION: u32 = 1;

/// From an image to a model's input: the shorter side is scaled to `resizeSize`, the middle square of `cropSize` is cut out, and
/// the RGB values, from 0 to 1, are normalised as (value - mean) / standardDeviation.
///
/// Scaling is bilinear with antialiasing, as in torchvision. A JPEG that is much larger is scaled down by a power of two while it
/// is decoded, never below what is needed. Exif orientation is applied, transparency dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preprocessing {
    // The fields stand in the order of their names: the canonical JSON, of which the hash is taken, has sorted keys.
    /// Width and height of the model's input, in pixels.
    pub crop_size: u32,
    /// Mean of the red, green and blue values, from 0 to 1.
    pub mean: [f32; 3],
    /// The shorter side is scaled to so many pixels; at least `cropSize`.
    pub resize_size: u32,
    /// Standard deviation of the values.
    pub standard_deviation: [f32; 3],
    /// Version of the procedure.
    pub version: u32,
}

/// A description that can't be carried out.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PreprocessingError {
    /// Sizes out of range.
    #[error(
        "cropSize {crop_size} and resizeSize {resize_size}: both must be from 1 to 8192, and cropSize the smaller one"
    )]
    Sizes {
        /// As given.
        crop_size: u32,
        /// As given.
        resize_size: u32,
    },
    /// Values that make the result not finite.
    #[error("mean and standardDeviation must be finite, and standardDeviation above 0")]
    Normalisation,
    /// A description of a later program.
    #[error(
        "version {0} of preprocessing is not known here, {VERSION} is: use the program that made the model, or a later one"
    )]
    Version(u32),
}

impl Preprocessing {
    /// For inputs of `size` pixels. From 96 pixels on, the shorter side is scaled to 8/7 of it, as torchvision's weights have it
    /// (224 of 256); small inputs (digits, icons) are used to the edge.
    pub fn for_size(size: u32) -> Self {
        let resize_size = if size >= 96 { (size * 8).div_ceil(7) } else { size };
        Self {
            crop_size: size,
            mean: IMAGENET_MEAN,
            resize_size,
            standard_deviation: IMAGENET_DEVIATION,
            version: VERSION,
        }
    }

    /// Whether this program can carry it out.
    pub fn check(&self) -> Result<(), PreprocessingError> {
        let Self { crop_size, resize_size, version, .. } = *self;
        if version != VERSION {
            return Err(PreprocessingError::Version(version));
        }
        if crop_size == 0 || crop_size > resize_size || resize_size > 8192 {
            return Err(PreprocessingError::Sizes { crop_size, resize_size });
        }
        let finite = self.mean.iter().chain(&self.standard_deviation).all(|value| value.is_finite());
        if !finite || self.standard_deviation.iter().any(|value| *value <= 0.0) {
            return Err(PreprocessingError::Normalisation);
        }
        Ok(())
    }

    /// `sha256:` and 64 hexadecimal digits over the canonical JSON: sorted keys, no white space, shortest numbers.
    pub fn hash(&self) -> String {
        let json = serde_json::to_vec(self).expect("a struct of numbers is JSON");
        format!("sha256:{}", hexadecimal(&Sha256::digest(json)))
    }

    /// Bytes of one image: `cropSize` rows of `cropSize` pixels of 3 bytes.
    pub fn image_bytes(&self) -> usize {
        self.crop_size as usize * self.crop_size as usize * 3
    }
}

/// Two digits for each byte.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_canonical_json() {
        let preprocessing = Preprocessing::for_size(224);
        let json = concat!(
            r#"{"cropSize":224,"mean":[0.485,0.456,0.406],"resizeSize":256,"#,
            r#""standardDeviation":[0.229,0.224,0.225],"version":1}"#
        );
        assert_eq!(serde_json::to_string(&preprocessing).unwrap(), json);
        assert_eq!(preprocessing.hash(), format!("sha256:{}", hexadecimal(&Sha256::digest(json))));
        assert_eq!(serde_json::from_str::<Preprocessing>(json).unwrap(), preprocessing);
        assert_ne!(preprocessing.hash(), Preprocessing::for_size(32).hash());
    }

    #[test]
    fn what_can_not_be_carried_out_is_refused() {
        let good = Preprocessing::for_size(64);
        assert_eq!(good.check(), Ok(()));
        let cases = [
            (
                Preprocessing { crop_size: 0, ..good.clone() },
                PreprocessingError::Sizes { crop_size: 0, resize_size: 64 },
            ),
            (
                Preprocessing { resize_size: 63, ..good.clone() },
                PreprocessingError::Sizes { crop_size: 64, resize_size: 63 },
            ),
            (Preprocessing { standard_deviation: [1.0, 0.0, 1.0], ..good.clone() }, PreprocessingError::Normalisation),
            (Preprocessing { mean: [f32::NAN; 3], ..good.clone() }, PreprocessingError::Normalisation),
            (Preprocessing { version: 9, ..good }, PreprocessingError::Version(9)),
        ];
        for (preprocessing, error) in cases {
            assert_eq!(preprocessing.check(), Err(error));
        }
    }
}
