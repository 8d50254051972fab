//! Small pictures of a data set's images, for people to look at.

use std::io::Cursor;
use std::path::Path;

use super::dataset::Dataset;
use super::decode::Decoder;

/// Largest side of a thumbnail, in pixels.
const THUMBNAIL: u32 = 160;

impl Dataset {
    /// A PNG of the image of a sample, 160 pixels wide or high at most; none if it can't be read any more, which is no reason
    /// to lose a report.
    pub fn thumbnail(&self, decoder: &mut Decoder, sample: &Path) -> Option<Vec<u8>> {
        let (width, height, pixels) = decoder.decode(&self.read(sample).ok()?).ok()?;
        let image = image::RgbImage::from_raw(width, height, pixels)?;
        let small = match width.max(height) <= THUMBNAIL {
            true => image.into(),
            false => image::DynamicImage::from(image).thumbnail(THUMBNAIL, THUMBNAIL),
        };
        let mut png = Vec::new();
        small.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).ok()?;
        Some(png)
    }
}
