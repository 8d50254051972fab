//! The square that a model sees is torchvision's, at every orientation, and the same on every run.

use image::{ImageFormat, RgbImage};

use super::super::{Augmentation, Policy, Preprocessing, RandomCrop, Scratch, View};
use super::made::{encoded, jpeg, pattern, quarters, with_orientation};

fn draw(view: &View, image: &[u8], epoch: u64, sample: usize) -> Vec<u8> {
    let mut pixels = vec![0; view.preprocessing().image_bytes()];
    view.draw(&mut Scratch::default(), image, epoch, sample, &mut pixels).unwrap();
    pixels
}

fn evaluation(resize_size: u32, crop_size: u32) -> View {
    View::evaluation(Preprocessing { resize_size, ..Preprocessing::for_size(crop_size) })
}

#[test]
fn evaluation_shows_what_torchvision_shows() {
    // Resize(10) and CenterCrop(8) of pattern(41, 31), by torchvision 0.26 on Pillow's images.
    #[rustfmt::skip]
    const TORCHVISION: [u8; 192] = [
        57, 31, 77, 76, 44, 134, 95, 57, 187, 114, 70, 90, 133, 83, 158, 152, 97, 118, 171, 110, 154, 190, 123, 125,
        66, 54, 92, 85, 77, 149, 104, 99, 169, 123, 122, 82, 142, 145, 151, 161, 168, 94, 180, 183, 143, 199, 174, 133,
        75, 77, 108, 94, 109, 165, 113, 142, 156, 132, 174, 86, 151, 194, 164, 170, 165, 105, 189, 101, 122, 208, 79, 136,
        84, 100, 123, 103, 142, 180, 122, 183, 118, 141, 195, 96, 160, 102, 167, 179, 71, 115, 198, 98, 137, 217, 140, 121,
        94, 122, 139, 113, 174, 191, 132, 193, 113, 151, 88, 111, 170, 77, 144, 189, 128, 111, 208, 170, 148, 227, 161, 127,
        103, 145, 154, 122, 194, 194, 141, 105, 83, 160, 77, 126, 179, 137, 156, 198, 182, 119, 217, 114, 109, 235, 85, 142,
        112, 168, 170, 131, 166, 183, 150, 70, 74, 169, 126, 142, 188, 183, 125, 207, 120, 133, 226, 92, 110, 220, 150, 152,
        121, 182, 185, 140, 102, 159, 159, 98, 71, 178, 170, 157, 197, 117, 107, 216, 92, 148, 234, 161, 125, 150, 132, 117,
    ];
    let ours = draw(&evaluation(10, 8), &encoded(&pattern(41, 31), ImageFormat::Png), 0, 0);
    let largest = ours.iter().zip(TORCHVISION).map(|(one, other)| one.abs_diff(other)).max();
    assert!(largest <= Some(1), "{largest:?}");
}

#[test]
fn a_shrunk_decode_shows_the_same_as_a_whole_one() {
    // Large enough for a decode at 1/8; smooth, as photos are at their full size.
    let smooth = RgbImage::from_fn(1200, 900, |x, y| image::Rgb([(x / 5) as u8, (y / 4) as u8, ((x + y) / 9) as u8]));
    let view = evaluation(64, 56);
    let (shrunk, whole) = (draw(&view, &jpeg(&smooth), 0, 0), draw(&view, &encoded(&smooth, ImageFormat::Png), 0, 0));
    let largest = shrunk.iter().zip(whole).map(|(one, other)| one.abs_diff(other)).max();
    assert!(largest <= Some(3), "{largest:?}");
}

#[test]
fn an_image_is_seen_upright_whatever_its_orientation() {
    // The upright image of every one is wider than high, and its upper left quarter is red.
    let upright = quarters(48, 32);
    let expected = draw(&evaluation(16, 16), &jpeg(&upright), 0, 0);
    for exif in 1..=8 {
        let mut stored = image::DynamicImage::from(upright.clone());
        // The inverse: 6 and 8 undo each other, all others themselves.
        let inverse = [0, 1, 2, 3, 4, 5, 8, 7, 6][usize::from(exif)];
        stored.apply_orientation(image::metadata::Orientation::from_exif(inverse).unwrap());
        let seen = draw(&evaluation(16, 16), &with_orientation(&jpeg(&stored.into_rgb8()), exif), 0, 0);
        let largest = seen.iter().zip(&expected).map(|(one, other)| one.abs_diff(*other)).max();
        assert!(largest <= Some(12), "orientation {exif}: {largest:?}");
    }
}

#[test]
fn training_varies_by_epoch_and_sample_and_by_nothing_else() {
    let all = Augmentation {
        policy: Some(Policy::RandAugment),
        crop: Some(RandomCrop::default()),
        horizontal_flip: 0.5,
        vertical_flip: 0.5,
        rotation: 20.0,
        translation: 0.1,
        brightness: 0.4,
        contrast: 0.4,
        saturation: 0.4,
        hue: 0.1,
    };
    let view = |seed| View::training(Preprocessing::for_size(32), all.clone(), seed);
    let image = jpeg(&quarters(90, 70));
    let first = draw(&view(1), &image, 3, 4);
    assert_eq!(first, draw(&view(1), &image, 3, 4));
    for (seed, epoch, sample) in [(2, 3, 4), (1, 4, 4), (1, 3, 5)] {
        assert_ne!(first, draw(&view(seed), &image, epoch, sample), "seed {seed}, epoch {epoch}, sample {sample}");
    }
}

#[test]
fn extreme_shapes_are_drawn() {
    for (width, height) in [(1, 1), (1, 900), (900, 1), (3, 2), (8, 8)] {
        let image = encoded(&pattern(width, height), ImageFormat::Png);
        draw(&evaluation(36, 32), &image, 0, 0);
        for sample in 0..20 {
            let augmentation = Augmentation { crop: Some(RandomCrop::default()), ..Augmentation::default() };
            draw(&View::training(Preprocessing::for_size(32), augmentation, 1), &image, 0, sample);
        }
    }
}
