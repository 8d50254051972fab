//! Random variation of training images: what is asked for, and the operations on the finished square of pixels.

use super::policy::Policy;
use super::random::Random;

/// A random part of the image, scaled to the model's input, as torchvision's `RandomResizedCrop`.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomCrop {
    /// Smallest and largest area, as fractions of the image.
    pub scale: [f64; 2],
    /// Smallest and largest width divided by height.
    pub ratio: [f64; 2],
}

impl Default for RandomCrop {
    fn default() -> Self {
        Self { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

/// How training images are varied. The default varies nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Augmentation {
    /// A random part of the image; without, the part that evaluation sees.
    pub crop: Option<RandomCrop>,
    /// Probability of a mirror image.
    pub horizontal_flip: f64,
    /// Probability of an image upside down.
    pub vertical_flip: f64,
    /// Largest rotation to either side, in degrees.
    pub rotation: f64,
    /// Largest shift in each direction, as a fraction of the side.
    pub translation: f64,
    /// A published set of random operations.
    pub policy: Option<Policy>,
    /// Brightness is multiplied by a factor from 1 - this to 1 + this.
    pub brightness: f64,
    /// The same of contrast.
    pub contrast: f64,
    /// The same of saturation.
    pub saturation: f64,
    /// Largest shift of the hue to either side, as a fraction of the colour circle.
    pub hue: f64,
}

/// Flips that were drawn for an image and are left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flips {
    /// Each row is to be mirrored.
    pub horizontal: bool,
    /// The rows are to be put in reverse order.
    pub vertical: bool,
}

impl Augmentation {
    /// Whether nothing comes after the flips, so that somebody else may do them.
    pub(super) fn ends_with_flips(&self) -> bool {
        self.policy.is_none() && !self.changes_colours()
    }

    fn changes_colours(&self) -> bool {
        [self.brightness, self.contrast, self.saturation, self.hue].iter().any(|strength| *strength > 0.0)
    }
}

/// Varies a square of `side` pixels a side, 3 bytes each: rotation and shift, flips, the policy, colours, in this order.
/// Pixels from outside the image are black, as in torchvision. `scratch` is overwritten. Gives the flips that are left: those that
/// were drawn, if `flips_later` says so and they are the end.
pub(super) fn apply(
    settings: &Augmentation,
    side: usize,
    pixels: &mut [u8],
    random: &mut Random,
    scratch: &mut Vec<u8>,
    flips_later: bool,
) -> Flips {
    if settings.rotation > 0.0 || settings.translation > 0.0 {
        let angle = random.uniform(-settings.rotation, settings.rotation);
        let reach = settings.translation * side as f64;
        // Whole pixels, as in torchvision.
        let shift = [random.uniform(-reach, reach).round(), random.uniform(-reach, reach).round()];
        rotate_and_shift(side, pixels, angle, shift, scratch);
    }
    let horizontal = random.uniform(0.0, 1.0) < settings.horizontal_flip;
    let vertical = random.uniform(0.0, 1.0) < settings.vertical_flip;
    if flips_later && settings.ends_with_flips() {
        return Flips { horizontal, vertical };
    }
    if horizontal {
        flip_horizontally(side, pixels);
    }
    if vertical {
        flip_vertically(side, pixels);
    }
    if let Some(policy) = settings.policy {
        policy.apply(side, pixels, random, scratch);
    }
    jitter(settings, pixels, random);
    Flips::default()
}

/// Mirrors each row.
fn flip_horizontally(side: usize, pixels: &mut [u8]) {
    for row in pixels.chunks_exact_mut(side * 3) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        pixels.reverse();
    }
}

/// Puts the rows in reverse order.
fn flip_vertically(side: usize, pixels: &mut [u8]) {
    let (upper, lower) = pixels.split_at_mut(side / 2 * side * 3);
    for (one, other) in upper.chunks_exact_mut(side * 3).zip(lower.rchunks_exact_mut(side * 3)) {
        one.swap_with_slice(other);
    }
}

/// Rotates about the middle by `angle` degrees, clockwise, then shifts right and down by whole pixels; bilinear.
fn rotate_and_shift(side: usize, pixels: &mut [u8], angle: f64, shift: [f64; 2], scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend_from_slice(pixels);
    let (sine, cosine) = angle.to_radians().sin_cos();
    let middle = side as f64 / 2.0;
    // The pixel at a place of the source; black outside.
    let at = |x: i64, y: i64| -> [f64; 3] {
        let inside = 0..side as i64;
        if !inside.contains(&x) || !inside.contains(&y) {
            return [0.0; 3];
        }
        let start = (y as usize * side + x as usize) * 3;
        [0, 1, 2].map(|channel| f64::from(scratch[start + channel]))
    };
    for (y, row) in pixels.chunks_exact_mut(side * 3).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            // The inverse map of the pixel's middle.
            let (right, down) = (x as f64 + 0.5 - middle - shift[0], y as f64 + 0.5 - middle - shift[1]);
            let from_x = cosine * right + sine * down + middle - 0.5;
            let from_y = cosine * down - sine * right + middle - 0.5;
            let (left, top) = (from_x.floor(), from_y.floor());
            let (weight_x, weight_y) = (from_x - left, from_y - top);
            let (left, top) = (left as i64, top as i64);
            let corners = [at(left, top), at(left + 1, top), at(left, top + 1), at(left + 1, top + 1)];
            for (channel, value) in pixel.iter_mut().enumerate() {
                let upper = corners[0][channel] * (1.0 - weight_x) + corners[1][channel] * weight_x;
                let lower = corners[2][channel] * (1.0 - weight_x) + corners[3][channel] * weight_x;
                *value = (upper * (1.0 - weight_y) + lower * weight_y).round() as u8;
            }
        }
    }
}

/// Changes colours by torchvision's `ColorJitter`: the operations asked for, in a random order.
fn jitter(settings: &Augmentation, pixels: &mut [u8], random: &mut Random) {
    #[derive(Clone, Copy)]
    enum Operation {
        Brightness,
        Contrast,
        Saturation,
        Hue,
    }
    if !settings.changes_colours() {
        return;
    }
    let mut operations = [
        (Operation::Brightness, settings.brightness),
        (Operation::Contrast, settings.contrast),
        (Operation::Saturation, settings.saturation),
        (Operation::Hue, settings.hue),
    ];
    random.shuffle(&mut operations);
    for (operation, strength) in operations {
        if strength <= 0.0 {
            continue;
        }
        let factor = random.uniform((1.0 - strength).max(0.0), 1.0 + strength) as f32;
        match operation {
            Operation::Brightness => blend(pixels, factor, |_| 0.0),
            Operation::Contrast => {
                let sum: f64 = pixels.chunks_exact(3).map(|pixel| f64::from(luma(pixel))).sum();
                let mean = (sum / (pixels.len() / 3) as f64) as f32;
                blend(pixels, factor, |_| mean);
            }
            Operation::Saturation => blend(pixels, factor, luma),
            Operation::Hue => turn_hue(pixels, factor - 1.0),
        }
    }
}

/// Moves each pixel away from (factor above 1) or towards (below 1) the grey that `anchor` has for it.
fn blend(pixels: &mut [u8], factor: f32, anchor: impl Fn(&[u8]) -> f32) {
    for pixel in pixels.chunks_exact_mut(3) {
        let offset = anchor(pixel) * (1.0 - factor);
        for value in pixel {
            // The conversion to u8 saturates.
            *value = (f32::from(*value) * factor + offset + 0.5) as u8;
        }
    }
}

/// Brightness of a pixel by ITU-R BT.601, as PIL's mode L and torchvision's grey have it.
fn luma(pixel: &[u8]) -> f32 {
    0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2])
}

/// Turns the hue of each pixel by a fraction of the colour circle, in the HSV model.
fn turn_hue(pixels: &mut [u8], shift: f32) {
    for pixel in pixels.chunks_exact_mut(3) {
        let [red, green, blue] = [0, 1, 2].map(|channel| f32::from(pixel[channel]));
        let (high, low) = (red.max(green).max(blue), red.min(green).min(blue));
        let range = high - low;
        if range == 0.0 {
            continue;
        }
        // Hue in sixths of the circle.
        let hue = if high == red {
            (green - blue) / range
        } else if high == green {
            (blue - red) / range + 2.0
        } else {
            (red - green) / range + 4.0
        };
        let hue = (hue + shift * 6.0).rem_euclid(6.0);
        for (value, offset) in pixel.iter_mut().zip([5.0, 3.0, 1.0]) {
            let place = (offset + hue).rem_euclid(6.0);
            let share = place.min(4.0 - place).clamp(0.0, 1.0);
            *value = (high - range * share + 0.5) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Use;
    use super::*;

    /// A square with a different value in each byte.
    fn square(side: usize) -> Vec<u8> {
        (0..side * side * 3).map(|value| (value * 7 % 251) as u8).collect()
    }

    fn pixel(pixels: &[u8], side: usize, x: usize, y: usize) -> [u8; 3] {
        let start = (y * side + x) * 3;
        [pixels[start], pixels[start + 1], pixels[start + 2]]
    }

    #[test]
    fn flips_move_pixels_to_the_opposite_side() {
        for side in [4, 5] {
            let original = square(side);
            let (mut mirrored, mut upside_down) = (original.clone(), original.clone());
            flip_horizontally(side, &mut mirrored);
            flip_vertically(side, &mut upside_down);
            for (x, y) in (0..side).flat_map(|x| (0..side).map(move |y| (x, y))) {
                assert_eq!(pixel(&mirrored, side, x, y), pixel(&original, side, side - 1 - x, y));
                assert_eq!(pixel(&upside_down, side, x, y), pixel(&original, side, x, side - 1 - y));
            }
        }
    }

    #[test]
    fn a_quarter_turn_and_a_shift_move_whole_pixels() {
        let original = square(6);
        let mut turned = original.clone();
        rotate_and_shift(6, &mut turned, 90.0, [0.0, 0.0], &mut Vec::new());
        assert_eq!(
            pixel(&turned, 6, 5, 0),
            pixel(&original, 6, 0, 0),
            "clockwise: the upper left goes to the upper right"
        );
        let mut shifted = original.clone();
        rotate_and_shift(6, &mut shifted, 0.0, [2.0, 1.0], &mut Vec::new());
        assert_eq!(pixel(&shifted, 6, 2, 1), pixel(&original, 6, 0, 0));
        assert_eq!(pixel(&shifted, 6, 1, 1), [0, 0, 0], "from outside: black");
    }

    #[test]
    fn colours_change_as_their_names_say() {
        let cases: [(&str, [u8; 3], [u8; 3]); 4] = [
            ("half brightness", [100, 50, 20], [50, 25, 10]),
            ("no saturation", [100, 50, 20], [62, 62, 62]),
            ("a third of the colour circle", [200, 0, 0], [0, 200, 0]),
            ("grey has no hue", [90, 90, 90], [90, 90, 90]),
        ];
        for (name, before, after) in cases {
            let mut pixels = before;
            match name {
                "half brightness" => blend(&mut pixels, 0.5, |_| 0.0),
                "no saturation" => blend(&mut pixels, 0.0, luma),
                _ => turn_hue(&mut pixels, 1.0 / 3.0),
            }
            assert_eq!(pixels, after, "{name}");
        }
    }

    #[test]
    fn nothing_asked_for_changes_nothing() {
        let mut pixels = square(9);
        let random = &mut Random::new(Use::Augment, 1, 2, 3);
        let left = apply(&Augmentation::default(), 9, &mut pixels, random, &mut Vec::new(), false);
        assert_eq!((pixels, left), (square(9), Flips::default()));
    }

    #[test]
    fn flips_that_are_left_to_do_are_those_that_were_drawn_unless_more_comes_after_them() {
        let flips = Augmentation { horizontal_flip: 0.5, vertical_flip: 0.5, ..Augmentation::default() };
        let turned = Augmentation { rotation: 20.0, ..flips.clone() };
        let coloured = Augmentation { hue: 0.1, ..flips.clone() };
        let policy = Augmentation { policy: Some(Policy::TrivialAugment), ..flips.clone() };
        for (settings, may_be_left) in [(flips, true), (turned, true), (coloured, false), (policy, false)] {
            let mut seen = std::collections::BTreeSet::new();
            for sample in 0..40 {
                let vary = |flips_later| {
                    let mut pixels = square(6);
                    let random = &mut Random::new(Use::Augment, 1, 2, sample);
                    let left = apply(&settings, 6, &mut pixels, random, &mut Vec::new(), flips_later);
                    (pixels, left)
                };
                let ((expected, none), (mut pixels, left)) = (vary(false), vary(true));
                assert_eq!(none, Flips::default());
                if left.horizontal {
                    flip_horizontally(6, &mut pixels);
                }
                if left.vertical {
                    flip_vertically(6, &mut pixels);
                }
                assert_eq!(pixels, expected, "{settings:?}");
                seen.insert((left.horizontal, left.vertical));
            }
            assert_eq!(seen.len(), if may_be_left { 4 } else { 1 }, "{settings:?}");
        }
    }
}
