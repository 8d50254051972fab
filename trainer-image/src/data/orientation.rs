//! Exif orientation: how an image as stored becomes the image as it is meant to be seen.

use image::metadata::Orientation;

use super::crop::Crop;

/// The orientation that a JPEG's Exif data asks for; none if there is no such data, or if it is broken.
pub(super) fn of_jpeg(bytes: &[u8]) -> Orientation {
    exif_of_jpeg(bytes).and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
}

/// The first Exif block among the segments before the image's data.
fn exif_of_jpeg(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.strip_prefix(b"\xFF\xD8")?;
    loop {
        let [0xFF, marker, tail @ ..] = rest else { return None };
        match marker {
            // A fill byte before a marker.
            0xFF => {
                rest = &rest[1..];
                continue;
            }
            // Start of scan or end of image: no more segments.
            0xDA | 0xD9 => return None,
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes(*tail.first_chunk()?));
        let segment = tail.get(2..length.max(2))?;
        if let (0xE1, Some(exif)) = (*marker, segment.strip_prefix(b"Exif\0\0")) {
            return Some(exif);
        }
        rest = &tail[length.max(2)..];
    }
}

/// The orientation that a WebP's Exif data asks for; none if there is no such data, or if it is broken. The library would take as
/// much memory for it as its chunk says that it has.
pub(super) fn of_webp(bytes: &[u8]) -> Orientation {
    exif_of_webp(bytes).and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
}

/// The first Exif chunk: `RIFF`, a length, `WEBP`, then chunks of a name, a length and as many bytes, made even.
fn exif_of_webp(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(12..)?;
    loop {
        let (name, tail) = rest.split_first_chunk::<4>()?;
        let (length, tail) = tail.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        if name == b"EXIF" {
            return tail.get(..length);
        }
        rest = tail.get(length.checked_add(length % 2)?..)?;
    }
}

/// Width and height of the image as seen, for one stored with this width and height.
pub(super) fn oriented_size(orientation: Orientation, (width, height): (u32, u32)) -> (u32, u32) {
    if swaps_axes(orientation) { (height, width) } else { (width, height) }
}

/// Whether rows of the stored image are columns of the image as seen.
fn swaps_axes(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Where a part of the image as seen, which is `width` by `height` pixels, lies in the stored image.
pub(super) fn stored_crop(orientation: Orientation, (width, height): (u32, u32), crop: Crop) -> Crop {
    let right = f64::from(width) - crop.left - crop.width;
    let bottom = f64::from(height) - crop.top - crop.height;
    let (left, top) = match orientation {
        Orientation::NoTransforms => (crop.left, crop.top),
        Orientation::FlipHorizontal => (right, crop.top),
        Orientation::Rotate180 => (right, bottom),
        Orientation::FlipVertical => (crop.left, bottom),
        Orientation::Rotate90FlipH => (crop.top, crop.left),
        Orientation::Rotate90 => (crop.top, right),
        Orientation::Rotate270FlipH => (bottom, right),
        Orientation::Rotate270 => (bottom, crop.left),
    };
    let (width, height) = if swaps_axes(orientation) { (crop.height, crop.width) } else { (crop.width, crop.height) };
    Crop { left, top, width, height }
}

/// Turns a square image of `side` pixels a side, 3 bytes each, from as stored to as seen. `scratch` is overwritten.
pub(super) fn orient_square(orientation: Orientation, side: usize, pixels: &mut [u8], scratch: &mut Vec<u8>) {
    if orientation == Orientation::NoTransforms {
        return;
    }
    scratch.clear();
    scratch.extend_from_slice(pixels);
    let last = side - 1;
    for (y, row) in pixels.chunks_exact_mut(side * 3).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let (from_x, from_y) = match orientation {
                Orientation::NoTransforms => (x, y),
                Orientation::FlipHorizontal => (last - x, y),
                Orientation::Rotate180 => (last - x, last - y),
                Orientation::FlipVertical => (x, last - y),
                Orientation::Rotate90FlipH => (y, x),
                Orientation::Rotate90 => (y, last - x),
                Orientation::Rotate270FlipH => (last - y, last - x),
                Orientation::Rotate270 => (last - y, x),
            };
            let from = (from_y * side + from_x) * 3;
            pixel.copy_from_slice(&scratch[from..from + 3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, RgbImage};

    use super::*;

    #[test]
    fn a_square_turns_as_the_image_crate_turns_it() {
        let stored: Vec<u8> = (0..5 * 5 * 3).map(|value| value as u8).collect();
        for exif in 1..=8 {
            let orientation = Orientation::from_exif(exif).unwrap();
            let mut expected = DynamicImage::from(RgbImage::from_raw(5, 5, stored.clone()).unwrap());
            expected.apply_orientation(orientation);
            let mut pixels = stored.clone();
            orient_square(orientation, 5, &mut pixels, &mut Vec::new());
            assert_eq!(pixels, expected.into_bytes(), "orientation {exif}");
        }
    }

    #[test]
    fn broken_segments_have_no_orientation() {
        let cases: [&[u8]; 7] = [
            b"",
            b"\xFF\xD8",
            b"\xFF\xD8\xFF",
            b"\xFF\xD8\xFF\xE1",
            b"\xFF\xD8\xFF\xE1\x00\x00",
            b"\xFF\xD8\xFF\xE1\xFF\xFFExif\0\0",
            b"\xFF\xD8\xFF\xE1\x00\x0CExif\0\0MM\0*\0",
        ];
        for bytes in cases {
            assert_eq!(of_jpeg(bytes), Orientation::NoTransforms, "{bytes:?}");
        }
    }
}
