//! A heat map over its image, as PNG.

use std::io::Cursor;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

/// Pixels a side that a picture has at least: small inputs are shown larger.
const LEAST_SIDE: usize = 224;

/// The picture: `pixels` are `size²` pixels of 3 bytes, `map` as many values of 0 to 1.
pub(super) fn png(pixels: &[u8], map: &[f32], size: usize) -> Vec<u8> {
    let times = LEAST_SIDE.div_ceil(size).max(1);
    let side = size * times;
    let mut picture = Vec::with_capacity(side * side * 3);
    for row in 0..side {
        for column in 0..side {
            let place = row / times * size + column / times;
            let heat = colour(map[place]);
            picture.extend((0..3).map(|channel| (pixels[place * 3 + channel] / 2) + heat[channel] / 2));
        }
    }
    let mut bytes = Cursor::new(Vec::new());
    let side = side as u32;
    PngEncoder::new(&mut bytes)
        .write_image(&picture, side, side, ExtendedColorType::Rgb8)
        .expect("as many bytes as pixels, into memory");
    bytes.into_inner()
}

/// From blue by green and yellow to red, as heat maps of networks are drawn since there are any.
fn colour(heat: f32) -> [u8; 3] {
    [3.0, 2.0, 1.0].map(|peak: f32| ((1.5 - (4.0 * heat - peak).abs()).clamp(0.0, 1.0) * 255.0) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_speaks_for_the_class_is_red() {
        let pixels = [[100; 3], [100; 3], [100; 3], [100; 3]].concat();
        let picture = image::load_from_memory(&png(&pixels, &[0.0, 0.5, 0.75, 1.0], 2)).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (224, 224));
        let at = |x, y| picture.get_pixel(x, y).0;
        assert_eq!((at(0, 0), at(223, 223)), ([50, 50, 113], [113, 50, 50]));
        assert_eq!((at(223, 0), at(0, 223)), ([113, 177, 113], [177, 113, 50]));
    }
}
