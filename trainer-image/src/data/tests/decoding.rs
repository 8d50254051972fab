//! Every kind of image is read as it should be, or refused with words.

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, Rgb, RgbImage, Rgba};
use turbojpeg::PixelFormat;

use super::super::decode::{Decoder, MAX_PIXELS};
use super::super::error::ImageFault;
use super::made::{
    compress, encoded, jpeg, pattern, png, png_header, quarters, stored, with_jpeg_size, with_orientation,
};

fn decode(bytes: &[u8]) -> Result<RgbImage, ImageFault> {
    let (width, height, pixels) = Decoder::new(MAX_PIXELS).decode(bytes)?;
    Ok(RgbImage::from_raw(width, height, pixels).unwrap())
}

/// The largest difference of two images' values.
fn distance(one: &RgbImage, other: &RgbImage) -> u8 {
    assert_eq!(one.dimensions(), other.dimensions());
    one.as_raw().iter().zip(other.as_raw()).map(|(one, other)| one.abs_diff(*other)).max().unwrap_or(0)
}

#[test]
fn formats_without_loss_come_back_as_they_were() {
    let image = pattern(13, 7);
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
        assert_eq!(decode(&encoded(&image, format)).unwrap(), image, "{format:?}");
    }
    let few_colors = quarters(8, 8);
    assert_eq!(decode(&encoded(&few_colors, ImageFormat::Gif)).unwrap(), few_colors, "GIF");
}

#[test]
fn other_colors_become_rgb() {
    let rgb16 = ImageBuffer::<Rgb<u16>, _>::from_fn(3, 2, |x, _| Rgb([x as u16 * 257 * 100, 65535, 0]));
    let gray16 = ImageBuffer::<Luma<u16>, _>::from_pixel(3, 2, Luma([128 * 257]));
    let alpha = ImageBuffer::<Rgba<u8>, _>::from_pixel(3, 2, Rgba([10, 20, 30, 0]));
    let gray = ImageBuffer::<Luma<u8>, _>::from_pixel(3, 2, Luma([77]));
    let lines = stored(&[0, 0, 1, 2, 0, 2, 1, 0]);
    let palette = png(&[
        (b"IHDR", &png_header(3, 2, 8, 3)),
        (b"PLTE", &[1, 2, 3, 40, 50, 60, 250, 251, 252]),
        (b"tRNS", &[0, 128]),
        (b"IDAT", &lines),
    ]);
    let cases: [(&str, Vec<u8>, [u8; 3], [u8; 3]); 6] = [
        ("16 bits", encoded(&rgb16, ImageFormat::Png), [0, 255, 0], [200, 255, 0]),
        ("gray, 16 bits", encoded(&gray16, ImageFormat::Png), [128; 3], [128; 3]),
        ("transparency is dropped", encoded(&alpha, ImageFormat::Png), [10, 20, 30], [10, 20, 30]),
        ("gray", encoded(&gray, ImageFormat::Png), [77; 3], [77; 3]),
        ("a palette with transparency", palette, [1, 2, 3], [250, 251, 252]),
        ("gray JPEG", compress(&[77; 6], 3, 2, PixelFormat::GRAY), [77; 3], [77; 3]),
    ];
    for (name, bytes, first, last) in cases {
        let image = decode(&bytes).unwrap();
        assert_eq!((image.get_pixel(0, 0).0, image.get_pixel(2, 0).0), (first, last), "{name}");
    }
}

#[test]
fn cmyk_is_read_as_adobe_writes_it() {
    // 255 is no ink. Without ink white, with black ink black, all but cyan red.
    for (ink, color) in [([255; 4], [255; 3]), ([255, 255, 255, 0], [0; 3]), ([255, 0, 0, 255], [255, 0, 0])] {
        let image = decode(&compress(&ink.repeat(64), 8, 8, PixelFormat::CMYK)).unwrap();
        assert!(distance(&image, &RgbImage::from_pixel(8, 8, Rgb(color))) <= 2, "{ink:?}: {:?}", image.get_pixel(4, 4));
    }
}

#[test]
fn all_eight_orientations_are_turned_upright() {
    let stored = quarters(16, 8);
    let bytes = jpeg(&stored);
    for exif in 1..=8 {
        let mut upright = DynamicImage::from(stored.clone());
        upright.apply_orientation(image::metadata::Orientation::from_exif(exif).unwrap());
        let image = decode(&with_orientation(&bytes, exif)).unwrap();
        assert!(distance(&image, &upright.into_rgb8()) <= 8, "orientation {exif}");
    }
}

#[test]
fn what_is_no_image_is_refused_with_words() {
    let jpeg = jpeg(&pattern(64, 64));
    let png_file = encoded(&pattern(64, 64), ImageFormat::Png);
    let mut damaged = jpeg.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 40].fill(0xA5);
    let mut bad_sum = png_file.clone();
    let end = bad_sum.len() - 20;
    bad_sum[end] ^= 0xFF;
    let cases: [(&str, &[u8], &str); 10] = [
        ("0 bytes", b"", "0 bytes"),
        ("text", b"This is not an image, it is a text.", "not a JPEG"),
        ("one byte", b"\xFF", "not a JPEG"),
        ("the start of a JPEG", b"\xFF\xD8\xFF", "ends too early"),
        ("half a JPEG", &jpeg[..jpeg.len() / 2], "ends too early"),
        ("a JPEG without its last bytes", &jpeg[..jpeg.len() - 40], "ends too early"),
        ("half a PNG", &png_file[..png_file.len() / 2], "ends too early"),
        ("the start of a PNG", &png_file[..20], "ends too early"),
        ("a damaged PNG", &bad_sum, "damaged"),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG"),
    ];
    for (name, bytes, words) in cases {
        let fault = decode(bytes).expect_err(name).to_string();
        assert!(fault.contains(words), "{name}: {fault}");
    }
    // Damage may also give other pixels: a JPEG has no check sum. But it never panics.
    let _ = decode(&damaged);
}

#[test]
fn a_bomb_is_refused_before_memory_is_taken_for_it() {
    let bomb_png = png(&[(b"IHDR", &png_header(100_000, 100_000, 8, 2)), (b"IDAT", &stored(&[0]))]);
    let bomb_jpeg = with_jpeg_size(&jpeg(&pattern(16, 16)), 65_500, 65_500);
    let just_too_large = png(&[(b"IHDR", &png_header(10_001, 10_000, 8, 0)), (b"IDAT", &stored(&[0]))]);
    let limit = MAX_PIXELS;
    for (bytes, width, height) in
        [(bomb_png, 100_000, 100_000), (bomb_jpeg, 65_500, 65_500), (just_too_large, 10_001, 10_000)]
    {
        assert!(bytes.len() < 2_000);
        assert_eq!(decode(&bytes), Err(ImageFault::TooManyPixels { width, height, limit }));
    }
}

#[test]
fn cut_anywhere_an_image_never_panics() {
    let image = pattern(24, 24);
    let mut files = vec![jpeg(&image), with_orientation(&jpeg(&image), 6)];
    files.extend(
        [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP, ImageFormat::Gif]
            .map(|format| encoded(&image, format)),
    );
    let mut decoder = Decoder::new(MAX_PIXELS);
    for file in &files {
        for end in 0..file.len() {
            let _ = decoder.decode(&file[..end]);
        }
        for place in 0..file.len().min(400) {
            let mut damaged = file.clone();
            damaged[place] ^= 0x55;
            let _ = decoder.decode(&damaged);
        }
        assert!(decoder.decode(file).is_ok(), "the decoder is as good as before");
    }
}

#[test]
fn an_image_does_not_depend_on_the_one_before() {
    // Files without tables of their own, as some cameras send them: those of the file before are not theirs.
    let whole = jpeg(&pattern(16, 16));
    for (table, words) in [(0xDB, "Quantization table"), (0xC4, "")] {
        let bare = without_segments(&whole, table);
        assert!(bare.len() < whole.len());
        let mut decoder = Decoder::new(MAX_PIXELS);
        let alone = decoder.decode(&bare);
        assert!(decoder.decode(&whole).is_ok());
        assert_eq!(decoder.decode(&bare), alone, "{table:#x}");
        assert!(alone.err().is_none_or(|fault| fault.to_string().contains(words)), "{table:#x}");
    }
}

/// The JPEG without the segments of this marker.
fn without_segments(jpeg: &[u8], marker: u8) -> Vec<u8> {
    let (mut bytes, mut rest) = (jpeg[..2].to_vec(), &jpeg[2..]);
    // The data follow the start of the scan.
    while rest[1] != 0xDA {
        let (segment, after) = rest.split_at(2 + usize::from(u16::from_be_bytes([rest[2], rest[3]])));
        if segment[1] != marker {
            bytes.extend(segment);
        }
        rest = after;
    }
    bytes.extend(rest);
    bytes
}

#[test]
fn complaints_that_change_no_pixel_are_passed_over() {
    let image = quarters(16, 16);
    let bytes = jpeg(&image);
    let (data, end) = bytes.split_at(bytes.len() - 2);
    let mut with_garbage = data.to_vec();
    with_garbage.extend([0x12, 0x34]);
    with_garbage.extend(end);
    assert!(distance(&decode(&with_garbage).unwrap(), &image) <= 8);
}
