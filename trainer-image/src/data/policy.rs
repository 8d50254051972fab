//! RandAugment (Cubuk et al. 2020) and TrivialAugment (Müller and Hutter 2021): which operations, and how strong. The
//! spaces are those of torchvision's v2 classes `RandAugment` and `TrivialAugmentWide` with their defaults.

use super::operations::{self, Kind};
use super::random::Random;

/// Magnitudes of an operation, from the weakest to the strongest.
const BINS: u32 = 31;
/// RandAugment's operations for each image, and the magnitude of each.
const OPERATIONS: u32 = 2;
const MAGNITUDE: u32 = 9;

/// A published set of random operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Two operations of one middling magnitude.
    RandAugment,
    /// One operation of a random magnitude.
    TrivialAugment,
}

impl Policy {
    /// Varies a square of `side` pixels a side, 3 bytes each. `scratch` is overwritten.
    pub(super) fn apply(self, side: usize, pixels: &mut [u8], random: &mut Random, scratch: &mut Vec<u8>) {
        let operations = match self {
            Policy::RandAugment => OPERATIONS,
            Policy::TrivialAugment => 1,
        };
        for _ in 0..operations {
            let kind = Kind::ALL[random.below(Kind::ALL.len() as u64) as usize];
            let bin = match self {
                Policy::RandAugment => MAGNITUDE,
                Policy::TrivialAugment => random.below(u64::from(BINS)) as u32,
            };
            let magnitude = self.magnitude(kind, bin, side);
            let turned = kind.is_signed() && random.below(2) == 0;
            operations::apply(kind, if turned { -magnitude } else { magnitude }, side, pixels, scratch);
        }
    }

    /// The magnitude of an operation in a bin from 0 to 30, for images of `side` pixels a side; 0 where it has none.
    pub fn magnitude(self, kind: Kind, bin: u32, side: usize) -> f64 {
        let (shear, shift, angle, factor, bits) = match self {
            Policy::RandAugment => (0.3, 150.0 / 331.0 * side as f64, 30.0, 0.9, 4.0),
            Policy::TrivialAugment => (0.99, 32.0, 135.0, 0.99, 6.0),
        };
        match kind {
            Kind::Identity | Kind::AutoContrast | Kind::Equalize => 0.0,
            Kind::ShearX | Kind::ShearY => place(0.0, shear, bin),
            Kind::TranslateX | Kind::TranslateY => place(0.0, shift, bin),
            Kind::Rotate => place(0.0, angle, bin),
            Kind::Brightness | Kind::Color | Kind::Contrast | Kind::Sharpness => place(0.0, factor, bin),
            Kind::Posterize => {
                let step = (f64::from(BINS - 1) / bits) as f32;
                f64::from((8.0 - bin as f32 / step).round_ties_even())
            }
            Kind::Solarize => place(1.0, 0.0, bin),
        }
    }
}

/// `torch.linspace(start, end, BINS)[bin]`: in 32 bits, from the nearer end, rounded once as vector code does. What is cut
/// off to whole pixels later depends on that.
fn place(start: f64, end: f64, bin: u32) -> f64 {
    let (start, end, last) = (start as f32, end as f32, (BINS - 1) as f32);
    let step = (end - start) / last;
    let from_start = bin < BINS / 2;
    f64::from(if from_start { step.mul_add(bin as f32, start) } else { step.mul_add(bin as f32 - last, end) })
}

#[cfg(test)]
mod tests {
    use super::super::random::Use;
    use super::*;

    #[test]
    fn a_policy_varies_images_the_same_way_for_the_same_numbers() {
        for policy in [Policy::RandAugment, Policy::TrivialAugment] {
            let original: Vec<u8> = (0..16 * 16 * 3).map(|value| (value * 31 % 256) as u8).collect();
            let draw = |sample| {
                let mut pixels = original.clone();
                policy.apply(16, &mut pixels, &mut Random::new(Use::Augment, 1, 0, sample), &mut Vec::new());
                pixels
            };
            let varied = (0..50).filter(|&sample| draw(sample) != original).count();
            assert!(varied > 30, "{policy:?} varied {varied} of 50");
            assert_eq!(draw(3), draw(3));
        }
    }
}
