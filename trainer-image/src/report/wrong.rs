//! The most wrong images, as pictures within the page.

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{WrongImage, text};

/// Images at most.
const MOST_IMAGES: usize = 48;
/// Bytes of a PNG at most; with [`MOST_IMAGES`] this bounds the page.
const LARGEST_PNG: usize = 128 << 10;
/// Pictures narrower than this are shown with their pixels as squares: smoothed they would be a blur.
const PIXEL_ART: u32 = 96;

struct Picture {
    data: String,
    width: u32,
    height: u32,
    pixels: bool,
}

struct Card {
    picture: Option<Picture>,
    name: String,
    label: String,
    predicted: String,
    probability: String,
    label_probability: String,
    bar: u32,
}

#[derive(Template)]
#[template(path = "report/wrong.html")]
struct Wrong {
    cards: Vec<Card>,
}

/// The section; `None` without images.
///
/// # Errors
/// If the template can't be rendered.
pub(super) fn render(images: &[WrongImage], names: &[String]) -> Result<Option<String>, askama::Error> {
    let cards: Vec<Card> = images
        .iter()
        .take(MOST_IMAGES)
        .map(|image| Card {
            picture: picture(&image.thumbnail),
            name: text::clean(&image.name),
            label: text::class_name(names, image.label),
            predicted: text::class_name(names, image.predicted),
            probability: text::percent(f64::from(image.probability)),
            label_probability: text::percent(f64::from(image.label_probability)),
            bar: (image.probability * 100.0).round() as u32,
        })
        .collect();
    if cards.is_empty() { Ok(None) } else { Wrong { cards }.render().map(Some) }
}

/// A PNG for the page, with the size that its header gives (PNG 3rd edition, 11.2.1: IHDR comes first), so that the
/// page does not jump while it loads.
fn picture(png: &[u8]) -> Option<Picture> {
    let header: &[u8; 24] = png.first_chunk()?;
    if png.len() > LARGEST_PNG || !header.starts_with(b"\x89PNG\r\n\x1a\n") || &header[12..16] != b"IHDR" {
        return None;
    }
    let [.., a, b, c, d, e, f, g, h] = *header;
    let (width, height) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    Some(Picture { data: STANDARD.encode(png), width, height, pixels: width < PIXEL_ART })
}
