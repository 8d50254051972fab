//! Which part of an image becomes the model's input: pure geometry, in pixels of the upright image.

use super::augment::RandomCrop;
use super::preprocessing::Preprocessing;
use super::random::Random;

/// A rectangle of the source image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Crop {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// The part that torchvision's `Resize(resize_size)` and `CenterCrop(crop_size)` show: it is cut out of the source, so that one
/// resize does both.
pub(super) fn evaluation(preprocessing: &Preprocessing, (width, height): (u32, u32)) -> Crop {
    let (resize, crop) = (u64::from(preprocessing.resize_size), f64::from(preprocessing.crop_size));
    // The longer side is rounded down, as in torchvision.
    let scaled = |side: u32| (resize * u64::from(side) / u64::from(width.min(height))) as f64;
    let (scaled_width, scaled_height) = (scaled(width), scaled(height));
    let (x, y) = (f64::from(width) / scaled_width, f64::from(height) / scaled_height);
    // Python rounds halves to even.
    let left = ((scaled_width - crop) / 2.0).round_ties_even();
    let top = ((scaled_height - crop) / 2.0).round_ties_even();
    Crop { left: left * x, top: top * y, width: crop * x, height: crop * y }
}

/// A random part, by the procedure of torchvision's `RandomResizedCrop`: ten tries for a rectangle of a random area and a random
/// ratio, then the largest one in the middle whose ratio is allowed.
pub(super) fn random(settings: &RandomCrop, (width, height): (u32, u32), random: &mut Random) -> Crop {
    let (full_width, full_height) = (f64::from(width), f64::from(height));
    let area = full_width * full_height;
    let [low, high] = settings.ratio;
    for _ in 0..10 {
        let target = area * random.uniform(settings.scale[0], settings.scale[1]);
        let ratio = random.uniform(low.ln(), high.ln()).exp();
        let crop_width = (target * ratio).sqrt().round_ties_even();
        let crop_height = (target / ratio).sqrt().round_ties_even();
        if (1.0..=full_width).contains(&crop_width) && (1.0..=full_height).contains(&crop_height) {
            let top = random.below((full_height - crop_height) as u64 + 1) as f64;
            let left = random.below((full_width - crop_width) as u64 + 1) as f64;
            return Crop { left, top, width: crop_width, height: crop_height };
        }
    }
    let ratio = full_width / full_height;
    let (crop_width, crop_height) = if ratio < low {
        (full_width, (full_width / low).round_ties_even().clamp(1.0, full_height))
    } else if ratio > high {
        ((full_height * high).round_ties_even().clamp(1.0, full_width), full_height)
    } else {
        (full_width, full_height)
    };
    let (left, top) = (((full_width - crop_width) / 2.0).floor(), ((full_height - crop_height) / 2.0).floor());
    Crop { left, top, width: crop_width, height: crop_height }
}

#[cfg(test)]
mod tests {
    use super::super::random::Use;
    use super::*;

    #[test]
    fn the_evaluation_crop_is_torchvisions() {
        // Resize(256) makes 341 x 256 of 500 x 375; CenterCrop(224) takes (58, 16): (117/2 = 58.5, rounded to even).
        let crop = evaluation(&Preprocessing::for_size(224), (500, 375));
        let (x, y) = (500.0 / 341.0, 375.0 / 256.0);
        assert_eq!(crop, Crop { left: 58.0 * x, top: 16.0 * y, width: 224.0 * x, height: 224.0 * y });
        let whole = evaluation(&Preprocessing::for_size(32), (8, 8));
        assert_eq!(whole, Crop { left: 0.0, top: 0.0, width: 8.0, height: 8.0 });
    }

    #[test]
    fn random_crops_lie_inside_and_have_the_areas_and_ratios_asked_for() {
        let settings = RandomCrop::default();
        for size in [(500, 375), (375, 500), (1, 1), (3, 1000), (1000, 3), (224, 224)] {
            let mut areas = Vec::new();
            for sample in 0..2000 {
                let crop = random(&settings, size, &mut Random::new(Use::Augment, 1, 0, sample));
                assert!(crop.left >= 0.0 && crop.left + crop.width <= f64::from(size.0), "{size:?} {crop:?}");
                assert!(crop.top >= 0.0 && crop.top + crop.height <= f64::from(size.1), "{size:?} {crop:?}");
                assert!(crop.width >= 1.0 && crop.height >= 1.0);
                areas.push(crop.width * crop.height / f64::from(size.0 * size.1));
            }
            if size == (224, 224) {
                let mean = areas.iter().sum::<f64>() / areas.len() as f64;
                // Large areas of an extreme ratio don't fit and are drawn again: the mean is 0.48, not 0.54.
                assert!((0.46..0.50).contains(&mean), "mean area {mean}");
            }
        }
    }

    #[test]
    fn an_image_that_fits_no_ratio_gives_its_middle() {
        let settings = RandomCrop::default();
        let crop = random(&settings, (1000, 3), &mut Random::new(Use::Augment, 1, 0, 0));
        assert_eq!(crop, Crop { left: 498.0, top: 0.0, width: 4.0, height: 3.0 });
    }
}
