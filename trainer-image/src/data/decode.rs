//! From the bytes of a file to RGB pixels, by content and not by name. Sizes are checked before memory is taken for them.
//!
//! As PIL's `convert("RGB")`, on which torchvision's loader rests: transparency is dropped, not blended; a palette becomes its
//! colours; 16 bits a channel become 8; the first picture of an animation is taken; CMYK is read as Adobe's inverted CMYK.

use std::io::Cursor;

use image::error::{ImageError, LimitErrorKind};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use turbojpeg::{Colorspace, DecompressHeader, Decompressor, Image, PixelFormat, ScalingFactor};

use super::error::ImageFault;
use super::orientation;

/// Most pixels of an image, unless told otherwise: beyond the largest cameras' 61 million, at 300 MB of RGB.
pub const MAX_PIXELS: u64 = 100_000_000;
/// Most scans of a progressive JPEG: encoders make about ten; thousands in a small file are an attack.
const MAX_SCANS: u32 = 500;
/// Bytes that the `image` crate may take for a pixel: four channels of 16 bits, and as much again for its own work.
const MAX_BYTES_PER_PIXEL: u64 = 16;

/// Decodes images; one for each thread. It keeps its buffers.
pub struct Decoder {
    jpeg: Decompressor,
    max_pixels: u64,
    cmyk: Vec<u8>,
}

/// An image whose header was read, and nothing else of it.
pub(super) struct Opened<'a> {
    /// Width and height, in pixels, as stored.
    pub(super) size: (u32, u32),
    /// What is to be done with the pixels for the image to be upright.
    pub(super) orientation: Orientation,
    content: Content<'a>,
}

impl Opened<'_> {
    /// Whether it can be shrunk while it is decoded.
    pub(super) fn can_shrink(&self) -> bool {
        matches!(&self.content, Content::Jpeg(_, header) if !header.is_lossless)
    }
}

enum Content<'a> {
    Jpeg(&'a [u8], DecompressHeader),
    Other(Box<dyn ImageDecoder + 'a>),
}

impl Decoder {
    /// A decoder that refuses images of more than `max_pixels` pixels.
    pub fn new(max_pixels: u64) -> Self {
        Self { jpeg: decompressor(), max_pixels, cmyk: Vec::new() }
    }

    /// What it keeps from image to image.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.cmyk
    }

    /// The whole image, upright: width, height, and 3 bytes for each pixel.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<(u32, u32, Vec<u8>), ImageFault> {
        let opened = self.open(bytes)?;
        let orientation = opened.orientation;
        let mut pixels = Vec::new();
        let (width, height) = self.read(opened, 1, &mut pixels)?;
        let image = image::RgbImage::from_raw(width, height, pixels).expect("as many bytes as pixels");
        let mut image = DynamicImage::from(image);
        image.apply_orientation(orientation);
        Ok((image.width(), image.height(), image.into_bytes()))
    }

    /// Reads the header.
    pub(super) fn open<'a>(&mut self, bytes: &'a [u8]) -> Result<Opened<'a>, ImageFault> {
        if bytes.is_empty() {
            return Err(ImageFault::Empty);
        }
        if bytes.starts_with(b"\xFF\xD8\xFF") {
            // A decompressor keeps tables and the size of a file, and takes them for those of a later one that has none of its
            // own: what is seen of a file would depend on the one before.
            self.jpeg = decompressor();
            let header = self.jpeg.read_header(bytes).map_err(|error| jpeg_fault(&error))?;
            let size = (clamp(header.width), clamp(header.height));
            self.check_pixels(size)?;
            return Ok(Opened {
                size,
                orientation: orientation::of_jpeg(bytes),
                content: Content::Jpeg(bytes, header),
            });
        }
        let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|_| ImageFault::Unknown)?;
        let format = reader.format().ok_or(ImageFault::Unknown)?;
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(self.max_pixels.saturating_mul(MAX_BYTES_PER_PIXEL));
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(image_fault)?;
        let size = decoder.dimensions();
        self.check_pixels(size)?;
        let orientation = match format {
            ImageFormat::WebP => orientation::of_webp(bytes),
            _ => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        };
        Ok(Opened { size, orientation, content: Content::Other(Box::new(decoder)) })
    }

    /// Reads the pixels into `pixels`, 3 bytes each, as stored, and returns their width and height. A JPEG is scaled down by
    /// `shrink` (1, 2, 4 or 8, sizes rounded up); other formats are not.
    pub(super) fn read(
        &mut self,
        opened: Opened<'_>,
        shrink: u32,
        pixels: &mut Vec<u8>,
    ) -> Result<(u32, u32), ImageFault> {
        match opened.content {
            Content::Jpeg(bytes, header) => self.read_jpeg(bytes, &header, shrink, pixels),
            Content::Other(decoder) => {
                read_other(decoder, pixels)?;
                Ok(opened.size)
            }
        }
    }

    fn read_jpeg(
        &mut self,
        bytes: &[u8],
        header: &DecompressHeader,
        shrink: u32,
        pixels: &mut Vec<u8>,
    ) -> Result<(u32, u32), ImageFault> {
        let shrink = if header.is_lossless { 1 } else { shrink };
        let scale = ScalingFactor::new(1, shrink as usize);
        self.jpeg.set_scaling_factor(scale).map_err(|error| jpeg_fault(&error))?;
        let (width, height) = (scale.scale(header.width), scale.scale(header.height));
        pixels.resize(width * height * 3, 0);
        if matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK) {
            self.cmyk.resize(width * height * 4, 0);
            self.decompress(bytes, width, height, PixelFormat::CMYK, None)?;
            for (rgb, cmyk) in pixels.chunks_exact_mut(3).zip(self.cmyk.chunks_exact(4)) {
                rgb.copy_from_slice(&rgb_of_inverted_cmyk(cmyk));
            }
        } else {
            self.decompress(bytes, width, height, PixelFormat::RGB, Some(pixels))?;
        }
        Ok((clamp(width), clamp(height)))
    }

    /// Decompresses into `pixels`, or into the own CMYK buffer.
    fn decompress(
        &mut self,
        bytes: &[u8],
        width: usize,
        height: usize,
        format: PixelFormat,
        pixels: Option<&mut [u8]>,
    ) -> Result<(), ImageFault> {
        let pixels = pixels.unwrap_or(&mut self.cmyk);
        let pitch = width * format.size();
        match self.jpeg.decompress(bytes, Image { pixels, width, pitch, height, format }) {
            Err(error) if !is_harmless(&error) => Err(jpeg_fault(&error)),
            _ => Ok(()),
        }
    }

    fn check_pixels(&self, (width, height): (u32, u32)) -> Result<(), ImageFault> {
        let limit = self.max_pixels;
        if u64::from(width) * u64::from(height) > limit {
            return Err(ImageFault::TooManyPixels { width, height, limit });
        }
        if width == 0 || height == 0 {
            return Err(ImageFault::Corrupt(format!("it declares {width} x {height} pixels")));
        }
        Ok(())
    }
}

fn read_other(decoder: Box<dyn ImageDecoder + '_>, pixels: &mut Vec<u8>) -> Result<(), ImageFault> {
    let (width, height) = decoder.dimensions();
    let bytes = width as usize * height as usize * 3;
    if decoder.color_type() == ColorType::Rgb8 {
        pixels.resize(bytes, 0);
        return decoder.read_image(pixels).map_err(image_fault);
    }
    let image = DynamicImage::from_decoder(decoder).map_err(image_fault)?.into_rgb8();
    pixels.clear();
    pixels.extend_from_slice(&image);
    if pixels.len() == bytes { Ok(()) } else { Err(ImageFault::Corrupt("its size is not the declared one".into())) }
}

/// Adobe's CMYK as files have it: 255 is no ink. The formula is PIL's, with its rounding.
fn rgb_of_inverted_cmyk(cmyk: &[u8]) -> [u8; 3] {
    let light = u32::from(cmyk[3]);
    [0, 1, 2].map(|ink| {
        let product = (255 - u32::from(cmyk[ink])) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}

/// Complaints of libjpeg after which the image is whole nevertheless: the wording is that of its `jerror.h`.
fn is_harmless(error: &turbojpeg::Error) -> bool {
    const HARMLESS: [&str; 4] = [
        "extraneous bytes before marker",
        "unknown JFIF revision",
        "Unknown Adobe color transform",
        "Inconsistent progression",
    ];
    matches!(error, turbojpeg::Error::TurboJpegError(text) if HARMLESS.iter().any(|known| text.contains(known)))
}

fn decompressor() -> Decompressor {
    let mut jpeg = Decompressor::new().expect("libjpeg-turbo takes a kilobyte of memory");
    jpeg.set_scan_limit(MAX_SCANS).expect("a limit in range");
    jpeg
}

fn jpeg_fault(error: &turbojpeg::Error) -> ImageFault {
    let text = match error {
        turbojpeg::Error::TurboJpegError(text) => text,
        // The library leaves the size at -1 where the file ends before it.
        turbojpeg::Error::IntegerOverflow(_) => return ImageFault::Truncated,
        other => return ImageFault::Unsupported(other.to_string()),
    };
    // The library puts the name of the function before the words.
    let text = text.split_once("(): ").map_or(text.as_str(), |(_, words)| words);
    let truncated = ["Premature end", "premature end", "Input file read error", "Could not determine"];
    let unsupported = ["Unsupported", "not supported", "Cannot transcode", "precision"];
    if truncated.iter().any(|known| text.contains(known)) {
        ImageFault::Truncated
    } else if unsupported.iter().any(|known| text.contains(known)) {
        ImageFault::Unsupported(text.to_owned())
    } else {
        ImageFault::Corrupt(text.to_owned())
    }
}

fn image_fault(error: ImageError) -> ImageFault {
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => ImageFault::Truncated,
        ImageError::Unsupported(error) => ImageFault::Unsupported(error.to_string()),
        ImageError::Limits(error) => match error.kind() {
            LimitErrorKind::InsufficientMemory => ImageFault::Unsupported("it takes too much memory".into()),
            _ => ImageFault::Unsupported(error.to_string()),
        },
        other => {
            // Some decoders wrap the end of the data into errors of their own.
            let text = other.to_string();
            let truncated = ["unexpected end", "unexpected EOF", "UnexpectedEof", "failed to fill whole buffer"];
            if truncated.iter().any(|known| text.contains(known)) {
                ImageFault::Truncated
            } else {
                ImageFault::Corrupt(text)
            }
        }
    }
}

/// Sizes beyond 32 bits are refused for their number of pixels.
fn clamp(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
