//! The operations of RandAugment and TrivialAugment on a square of pixels, as torchvision's v2 kernels for tensors of bytes
//! compute them: in 32 bits, conversions to bytes cut off, the nearest pixel where one is moved, black from outside.

/// An operation, by torchvision's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "`apply` says what each of them does")]
pub enum Kind {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

impl Kind {
    /// All of them, in torchvision's order.
    pub const ALL: [Kind; 14] = [
        Kind::Identity,
        Kind::ShearX,
        Kind::ShearY,
        Kind::TranslateX,
        Kind::TranslateY,
        Kind::Rotate,
        Kind::Brightness,
        Kind::Color,
        Kind::Contrast,
        Kind::Sharpness,
        Kind::Posterize,
        Kind::Solarize,
        Kind::AutoContrast,
        Kind::Equalize,
    ];

    /// Whether it works in two directions: the magnitude may be negative.
    pub fn is_signed(self) -> bool {
        use Kind::{AutoContrast, Equalize, Identity, Posterize, Solarize};
        !matches!(self, Identity | Posterize | Solarize | AutoContrast | Equalize)
    }
}

/// Changes a square of `side` pixels a side, 3 bytes each. Magnitudes: the tangent of a shear's angle, whole pixels of a
/// translation, degrees of a rotation (anticlockwise), 1 less than the factor of a change of colour or sharpness, the bits
/// that are kept, the share of the largest value from which on values are inverted. `scratch` is overwritten.
pub fn apply(kind: Kind, magnitude: f64, side: usize, pixels: &mut [u8], scratch: &mut Vec<u8>) {
    // The middle of the image is the origin, in pixels.
    let corner = -0.5 * side as f64;
    match kind {
        Kind::Identity => {}
        Kind::ShearX => warp(side, pixels, scratch, [1.0, magnitude, -magnitude * corner, 0.0, 1.0, 0.0]),
        Kind::ShearY => warp(side, pixels, scratch, [1.0, 0.0, 0.0, magnitude, 1.0, -magnitude * corner]),
        Kind::TranslateX => warp(side, pixels, scratch, [1.0, 0.0, -magnitude.trunc(), 0.0, 1.0, 0.0]),
        Kind::TranslateY => warp(side, pixels, scratch, [1.0, 0.0, 0.0, 0.0, 1.0, -magnitude.trunc()]),
        Kind::Rotate => {
            let (sine, cosine) = (-magnitude).to_radians().sin_cos();
            warp(side, pixels, scratch, [cosine, sine, 0.0, -sine, cosine, 0.0]);
        }
        Kind::Brightness => blend(pixels, 1.0 + magnitude, |_| 0.0),
        Kind::Color => blend(pixels, 1.0 + magnitude, grey),
        Kind::Contrast => {
            let sum: f64 = pixels.chunks_exact(3).map(|pixel| f64::from(grey(pixel))).sum();
            let mean = (sum / (pixels.len() / 3) as f64) as f32;
            blend(pixels, 1.0 + magnitude, |_| mean);
        }
        Kind::Sharpness => sharpen(side, pixels, 1.0 + magnitude, scratch),
        Kind::Posterize => {
            let mask = 0xFF_u8.checked_shl(8 - (magnitude as u32).min(8)).unwrap_or(0);
            pixels.iter_mut().for_each(|value| *value &= mask);
        }
        Kind::Solarize => {
            let threshold = (255.0 * magnitude) as f32;
            for value in pixels.iter_mut().filter(|value| f32::from(**value) >= threshold) {
                *value = 255 - *value;
            }
        }
        Kind::AutoContrast => (0..3).for_each(|channel| stretch(pixels, channel)),
        Kind::Equalize => (0..3).for_each(|channel| equalize(pixels, channel)),
    }
}

/// Takes each pixel from where `matrix` says: a row for x and one for y, of the target's x, its y and 1.
fn warp(side: usize, pixels: &mut [u8], scratch: &mut Vec<u8>, matrix: [f64; 6]) {
    scratch.clear();
    scratch.extend_from_slice(pixels);
    // In the units of grid_sample, in which the image goes from -1 to 1.
    let half = 0.5 * side as f32;
    let scaled = matrix.map(|entry| entry as f32 / half);
    let place = |row: &[f32], x: f32, y: f32| ((x * row[0] + y * row[1] + row[2]) + 1.0) * half - 0.5;
    let first = (1.0 - side as f32) * 0.5;
    for (row, line) in pixels.chunks_exact_mut(side * 3).enumerate() {
        let y = first + row as f32;
        for (column, pixel) in line.chunks_exact_mut(3).enumerate() {
            let x = first + column as f32;
            let [from_x, from_y] = [&scaled[..3], &scaled[3..]].map(|row| place(row, x, y).round_ties_even());
            let inside = 0.0..side as f32;
            if inside.contains(&from_x) && inside.contains(&from_y) {
                let start = (from_y as usize * side + from_x as usize) * 3;
                pixel.copy_from_slice(&scratch[start..start + 3]);
            } else {
                pixel.fill(0);
            }
        }
    }
}

/// torchvision's grey of a pixel, cut off to a whole number.
fn grey(pixel: &[u8]) -> f32 {
    (f32::from(pixel[0]) * 0.2989 + f32::from(pixel[1]) * 0.587 + f32::from(pixel[2]) * 0.114).floor()
}

/// Moves each pixel away from (factor above 1) or towards (below 1) the grey that `anchor` has for it.
fn blend(pixels: &mut [u8], factor: f64, anchor: impl Fn(&[u8]) -> f32) {
    let (own, rest) = (factor as f32, (1.0 - factor) as f32);
    for pixel in pixels.chunks_exact_mut(3) {
        let offset = anchor(pixel) * rest;
        for value in pixel {
            // The conversion saturates.
            *value = (f32::from(*value) * own + offset) as u8;
        }
    }
}

/// Moves each pixel but those of the edge away from (factor above 1) or towards the mean of its surroundings.
fn sharpen(side: usize, pixels: &mut [u8], factor: f64, scratch: &mut Vec<u8>) {
    if side <= 2 {
        return;
    }
    scratch.clear();
    scratch.extend_from_slice(pixels);
    let (around, middle, rest) = ((1.0 / 13.0) as f32, (5.0 / 13.0) as f32, (1.0 - factor) as f32);
    let line = side * 3;
    for row in 1..side - 1 {
        let inner = row * line + 3..(row + 1) * line - 3;
        for (place, pixel) in inner.clone().zip(&mut pixels[inner]) {
            let at = |place: usize| f32::from(scratch[place]);
            let mut blurred = 0.0;
            for above in [place - line, place, place + line] {
                for place_there in [above - 3, above, above + 3] {
                    blurred += at(place_there) * if place_there == place { middle } else { around };
                }
            }
            let value = at(place);
            *pixel = (value + (blurred.round_ties_even() - value) * rest) as u8;
        }
    }
}

fn channel_of(pixels: &mut [u8], channel: usize) -> impl Iterator<Item = &mut u8> {
    pixels.iter_mut().skip(channel).step_by(3)
}

/// Spreads a channel's values over the whole range.
fn stretch(pixels: &mut [u8], channel: usize) {
    let values = || pixels.iter().skip(channel).step_by(3).copied();
    let (Some(low), Some(high)) = (values().min(), values().max()) else { return };
    if low == high {
        return;
    }
    let scale = f32::from(high - low) * (1.0 / 255.0) as f32;
    for value in channel_of(pixels, channel) {
        *value = (f32::from(*value - low) / scale) as u8;
    }
}

/// Makes a channel's values equally frequent, by PIL's table.
fn equalize(pixels: &mut [u8], channel: usize) {
    let mut counts = [0_usize; 256];
    channel_of(pixels, channel).for_each(|value| counts[usize::from(*value)] += 1);
    let Some(highest) = counts.iter().rposition(|count| *count > 0) else { return };
    let step = (pixels.len() / 3 - counts[highest]) / 255;
    if step == 0 {
        return;
    }
    let mut table = [0_u8; 256];
    let mut below = 0;
    for (entry, count) in table.iter_mut().zip(counts) {
        *entry = ((below + step / 2) / step).min(255) as u8;
        below += count;
    }
    channel_of(pixels, channel).for_each(|value| *value = table[usize::from(*value)]);
}
