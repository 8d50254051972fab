//! From the bytes of an image to the square of pixels that the model sees: decoded no larger than needed, cropped and resized in
//! one pass, varied if it is for training. One implementation for training, scoring and serving.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;

use super::augment::{self, Augmentation, Flips};
use super::crop::{self, Crop};
use super::decode::{Decoder, MAX_PIXELS};
use super::error::ImageFault;
use super::orientation::{orient_square, oriented_size, stored_crop};
use super::preprocessing::Preprocessing;
use super::random::{Random, Use};

/// How a model's input is made of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    preprocessing: Preprocessing,
    training: Option<(Augmentation, u64)>,
    /// Whether flips that nothing comes after are left to who gets the pixels.
    flips_later: bool,
}

/// What a thread needs to draw views; it keeps its buffers from image to image.
pub struct Scratch {
    pub(super) file: Vec<u8>,
    /// What was fetched from a store for the batch at hand, by sample.
    pub(super) fetched: HashMap<usize, io::Result<Bytes>>,
    pub(super) decoder: Decoder,
    source: Vec<u8>,
    square: Vec<u8>,
    resizer: Resizer,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new(MAX_PIXELS)
    }
}

impl Scratch {
    /// Buffers, and a decoder that refuses images of more than `max_pixels` pixels.
    pub fn new(max_pixels: u64) -> Self {
        Self {
            file: Vec::new(),
            fetched: HashMap::new(),
            decoder: Decoder::new(max_pixels),
            source: Vec::new(),
            square: Vec::new(),
            resizer: Resizer::new(),
        }
    }

    /// Gives back each buffer that is larger than `most` bytes: one huge image would otherwise hold its memory for as long as the
    /// thread lives. Buffers for usual images are kept.
    pub fn give_back(&mut self, most: usize) {
        for buffer in [&mut self.file, &mut self.source, &mut self.square, self.decoder.buffer()] {
            if buffer.capacity() > most {
                *buffer = Vec::new();
            }
        }
        if self.resizer.size_of_internal_buffers() > most {
            self.resizer.reset_internal_buffers();
        }
    }

    /// Bytes of its largest buffer.
    #[cfg(test)]
    pub(crate) fn largest(&mut self) -> usize {
        let buffers = [&self.file, &self.source, &self.square].map(Vec::capacity);
        let others = [self.decoder.buffer().capacity(), self.resizer.size_of_internal_buffers()];
        buffers.into_iter().chain(others).max().unwrap_or_default()
    }
}

/// A whole image in memory, as stored.
pub(super) struct Picture {
    pub(super) size: (u32, u32),
    pub(super) orientation: Orientation,
    pub(super) pixels: Vec<u8>,
}

impl View {
    /// The same view of an image every time: for validation, scoring and serving. The preprocessing has been
    /// [checked](Preprocessing::check).
    pub fn evaluation(preprocessing: Preprocessing) -> Self {
        Self { preprocessing, training: None, flips_later: false }
    }

    /// Another view in each epoch: for training. What it shows is a function of the seed, the epoch and the sample alone.
    pub fn training(preprocessing: Preprocessing, augmentation: Augmentation, seed: u64) -> Self {
        Self { preprocessing, training: Some((augmentation, seed)), flips_later: false }
    }

    /// The same, with the flips left to who gets the pixels, if nothing comes after them.
    pub fn flips_later(self, later: bool) -> Self {
        Self { flips_later: later, ..self }
    }

    /// What the model expects.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// Draws the view of an encoded image into `pixels`: rows of pixels of 3 bytes,
    /// [`image_bytes`](Preprocessing::image_bytes) in all. `epoch` and `sample` matter to training alone. Gives what is left to do,
    /// which is nothing but for a view with [`flips_later`](Self::flips_later).
    pub fn draw(
        &self,
        scratch: &mut Scratch,
        image: &[u8],
        epoch: u64,
        sample: usize,
        pixels: &mut [u8],
    ) -> Result<Flips, ImageFault> {
        let opened = scratch.decoder.open(image)?;
        let (size, orientation) = (opened.size, opened.orientation);
        let (crop, random) = self.plan(size, orientation, epoch, sample);
        let shrink = self.shrink(&crop);
        let mut source = std::mem::take(&mut scratch.source);
        let drawn = scratch.decoder.read(opened, shrink, &mut source).and_then(|read_size| {
            // The decoder may not have shrunk it.
            let shrink = if read_size == size { 1 } else { shrink };
            self.finish(scratch, &source, read_size, shrink, orientation, crop, random, pixels)
        });
        scratch.source = source;
        drawn
    }

    /// Draws the view of an image that is in memory already.
    pub(super) fn draw_picture(
        &self,
        scratch: &mut Scratch,
        picture: &Picture,
        epoch: u64,
        sample: usize,
        pixels: &mut [u8],
    ) -> Result<Flips, ImageFault> {
        let (crop, random) = self.plan(picture.size, picture.orientation, epoch, sample);
        self.finish(scratch, &picture.pixels, picture.size, 1, picture.orientation, crop, random, pixels)
    }

    /// The part of the stored image to show, and the random numbers for what follows.
    fn plan(&self, size: (u32, u32), orientation: Orientation, epoch: u64, sample: usize) -> (Crop, Option<Random>) {
        let seen = oriented_size(orientation, size);
        let mut random = self.training.as_ref().map(|(_, seed)| Random::new(Use::Augment, *seed, epoch, sample as u64));
        let crop = match (&self.training, &mut random) {
            (Some((Augmentation { crop: Some(settings), .. }, _)), Some(random)) => {
                crop::random(settings, seen, random)
            }
            _ => crop::evaluation(&self.preprocessing, seen),
        };
        (stored_crop(orientation, seen, crop), random)
    }

    /// By how much a JPEG may shrink while it is decoded, so that the part to show still has a pixel for each one needed. Powers
    /// of two: for these, libjpeg-turbo has SIMD code.
    fn shrink(&self, crop: &Crop) -> u32 {
        let spare = crop.width.min(crop.height) / f64::from(self.preprocessing.crop_size);
        [8, 4, 2].into_iter().find(|shrink| f64::from(*shrink) <= spare).unwrap_or(1)
    }

    /// Whether a JPEG of this size is shrunk while it is decoded for some of what this view shows of it.
    pub(super) fn may_shrink(&self, (width, height): (u32, u32)) -> bool {
        let whole = Crop { left: 0.0, top: 0.0, width: width.into(), height: height.into() };
        let largest = match &self.training {
            Some((Augmentation { crop: Some(_), .. }, _)) => whole,
            _ => crop::evaluation(&self.preprocessing, (width, height)),
        };
        self.shrink(&largest) > 1
    }

    /// Crops and resizes in one pass, turns the square upright, varies it.
    #[expect(clippy::too_many_arguments, reason = "the two callers differ in each of them")]
    fn finish(
        &self,
        scratch: &mut Scratch,
        source: &[u8],
        (width, height): (u32, u32),
        shrink: u32,
        orientation: Orientation,
        crop: Crop,
        random: Option<Random>,
        pixels: &mut [u8],
    ) -> Result<Flips, ImageFault> {
        let side = self.preprocessing.crop_size;
        let inexpressible = |error: &dyn std::fmt::Display| ImageFault::Unsupported(error.to_string());
        let source =
            TypedImageRef::<U8x3>::from_buffer(width, height, source).map_err(|error| inexpressible(&error))?;
        let mut target = TypedImage::<U8x3>::from_buffer(side, side, pixels).map_err(|error| inexpressible(&error))?;
        let (left, crop_width) = clip(crop.left, crop.width, shrink, width);
        let (top, crop_height) = clip(crop.top, crop.height, shrink, height);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .crop(left, top, crop_width, crop_height)
            .use_alpha(false);
        scratch.resizer.resize_typed(&source, &mut target, &options).map_err(|error| inexpressible(&error))?;
        let side = side as usize;
        orient_square(orientation, side, pixels, &mut scratch.square);
        Ok(match (&self.training, random) {
            (Some((augmentation, _)), Some(mut random)) => {
                augment::apply(augmentation, side, pixels, &mut random, &mut scratch.square, self.flips_later)
            }
            _ => Flips::default(),
        })
    }
}

/// An interval of the full-size image in the shrunk one, within its `size`: rounding may not push it over the edge.
fn clip(start: f64, length: f64, shrink: u32, size: u32) -> (f64, f64) {
    let (shrink, size) = (f64::from(shrink), f64::from(size));
    let start = (start / shrink).clamp(0.0, size);
    (start, (length / shrink).min(size - start))
}
