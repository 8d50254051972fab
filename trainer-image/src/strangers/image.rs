//! Images of every format that is read, through the one preprocessing.

use std::cell::RefCell;
use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

use super::Seed;
use crate::data::{Augmentation, Decoder, ImageFault, Policy, Preprocessing, RandomCrop, Scratch, View};

/// Most pixels of an image here.
const LIMIT: u64 = 1 << 16;
/// Width and height of what a model sees.
const SIDE: u32 = 24;
/// Images of up to so many pixels are written and read again.
const SMALL: u32 = 1 << 12;

thread_local! {
    // One for all images, as in the product: what one leaves behind must not be seen in the next one.
    static READER: RefCell<Reader> = RefCell::new(Reader::new());
}

struct Reader {
    decoder: Decoder,
    scratch: Scratch,
    evaluation: View,
    training: View,
    /// An image, and what is to be seen of it.
    known: (Vec<u8>, Vec<u8>),
}

impl Reader {
    fn new() -> Reader {
        let augmentation = Augmentation {
            crop: Some(RandomCrop::default()),
            horizontal_flip: 0.5,
            policy: Some(Policy::TrivialAugment),
            ..Augmentation::default()
        };
        let preprocessing = Preprocessing::for_size(SIDE);
        let mut reader = Reader {
            decoder: Decoder::new(LIMIT),
            scratch: Scratch::new(LIMIT),
            evaluation: View::evaluation(preprocessing.clone()),
            training: View::training(preprocessing, augmentation, 1),
            known: (jpeg(PixelFormat::RGB, Subsamp::None), Vec::new()),
        };
        reader.known.1 = reader.draw(&reader.known.0.clone(), false).expect("a good image");
        reader
    }

    fn draw(&mut self, bytes: &[u8], trains: bool) -> Result<Vec<u8>, ImageFault> {
        let view = if trains { &self.training } else { &self.evaluation };
        let mut pixels = vec![0; view.preprocessing().image_bytes()];
        view.draw(&mut self.scratch, bytes, 1, 2, &mut pixels).map(|_| pixels)
    }
}

/// Decodes and draws an image.
pub(super) fn read(bytes: &[u8]) -> bool {
    READER.with_borrow_mut(|reader| {
        let decoded = reader.decoder.decode(bytes);
        match &decoded {
            Ok((width, height, pixels)) => {
                assert!(u64::from(*width) * u64::from(*height) <= LIMIT, "{width} x {height} pixels");
                assert_eq!(pixels.len(), *width as usize * *height as usize * 3);
            }
            Err(fault) => assert_refused(bytes, fault),
        }
        let is_image = decoded.is_ok();
        let drawn = reader.draw(bytes, false);
        assert_eq!(drawn, reader.draw(bytes, false), "the same image, drawn twice");
        for drawn in [drawn, reader.draw(bytes, true)] {
            if let Err(fault) = drawn {
                assert!(!is_image, "it is decoded, and not drawn: {fault}");
                assert_refused(bytes, &fault);
            }
        }
        if let Ok((width, height, pixels)) = decoded
            && width * height <= SMALL
        {
            let image = RgbImage::from_raw(width, height, pixels).expect("as many bytes as pixels");
            let again = reader.decoder.decode(&encoded(&image.clone().into(), ImageFormat::Png));
            assert_eq!(again, Ok((width, height, image.into_raw())));
        }
        let (known, expected) = reader.known.clone();
        assert_eq!(reader.draw(&known, false).as_ref(), Ok(&expected), "the next image is as it always is");
        is_image
    })
}

/// That a fault is true of the bytes.
fn assert_refused(bytes: &[u8], fault: &ImageFault) {
    match fault {
        ImageFault::Empty => assert!(bytes.is_empty()),
        ImageFault::TooManyPixels { width, height, limit } => {
            assert!(*limit == LIMIT && u64::from(*width) * u64::from(*height) > LIMIT, "{fault}");
        }
        ImageFault::Unknown => assert!(!bytes.starts_with(b"\xFF\xD8\xFF") && !bytes.starts_with(b"\x89PNG\r\n\x1A\n")),
        ImageFault::Truncated | ImageFault::Corrupt(_) | ImageFault::Unsupported(_) => assert!(!bytes.is_empty()),
        ImageFault::TooManyBytes { .. } | ImageFault::NotAFile | ImageFault::Panicked => panic!("{fault}"),
    }
}

/// What encoders here make; others' files lie in the target's folder.
pub(super) fn seeds() -> Vec<Seed> {
    let image = DynamicImage::from(pattern(9, 7));
    let mut seeds = vec![
        Seed::new("jpeg", jpeg(PixelFormat::RGB, Subsamp::Sub2x2)),
        Seed::new("gray jpeg", jpeg(PixelFormat::GRAY, Subsamp::Gray)),
        Seed::new("cmyk jpeg", jpeg(PixelFormat::CMYK, Subsamp::None)),
        Seed::new("turned jpeg", turned(&jpeg(PixelFormat::RGB, Subsamp::Sub2x1))),
    ];
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff, ImageFormat::WebP] {
        seeds.push(Seed::new(&format!("{format:?}"), encoded(&image, format)));
    }
    for (name, image) in [
        ("transparent", image.to_rgba8().into()),
        ("gray", image.to_luma8().into()),
        ("16 bits", image.to_rgb16().into()),
        ("gray with transparency, 16 bits", image.to_luma_alpha16().into()),
    ] {
        let image: DynamicImage = image;
        seeds.push(Seed::new(&format!("{name} PNG"), encoded(&image, ImageFormat::Png)));
        seeds.push(Seed::new(&format!("{name} TIFF"), encoded(&image, ImageFormat::Tiff)));
    }
    // TIFF knows no transparency in gray.
    seeds.retain(|seed| !seed.bytes.is_empty());
    seeds
}

fn pattern(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 20) as u8, (y * 30) as u8, (x * y * 3) as u8]))
}

/// A file of the image; no bytes where the format does not know its colours.
fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    match image.write_to(&mut bytes, format) {
        Ok(()) => bytes.into_inner(),
        Err(_) => Vec::new(),
    }
}

fn jpeg(format: PixelFormat, sampling: Subsamp) -> Vec<u8> {
    let (width, height) = (33, 17);
    let image = pattern(width, height);
    let pixels: Vec<u8> = image.pixels().flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 200]).collect();
    let pixels: Vec<u8> = pixels.chunks(4).flat_map(|pixel| &pixel[..format.size()]).copied().collect();
    let (width, height) = (width as usize, height as usize);
    let mut compressor = Compressor::new().expect("a compressor");
    compressor.set_quality(60).expect("a quality in range");
    compressor.set_subsamp(sampling).expect("a kind of sampling");
    compressor
        .compress_to_vec(Image { pixels: &pixels[..], width, pitch: width * format.size(), height, format })
        .expect("an image")
}

/// The JPEG with an Exif block that asks for a quarter turn.
fn turned(jpeg: &[u8]) -> Vec<u8> {
    let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    [&jpeg[..2], &[0xFF, 0xE1, 0, exif.len() as u8 + 2], exif, &jpeg[2..]].concat()
}
