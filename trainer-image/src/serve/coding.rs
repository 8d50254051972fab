//! Bodies that come compressed: as gzip, or as what HTTP calls deflate, which is zlib's format (RFC 9110, 8.4.1.2).

use std::borrow::Cow;
use std::io::{self, Write};
use std::mem::take;

use axum::http::{HeaderMap, header};
use flate2::write::{GzDecoder, ZlibDecoder};

use super::error::ServeError;

/// Bytes that are inflated at a time. They make 1,032 times as many at most, so that a small body does not become a large one at
/// one stroke.
const STEP: usize = 64;

/// How a body is coded, and how far it is decoded.
pub(super) enum Coding {
    Identity,
    Gzip(Box<GzDecoder<Vec<u8>>>),
    Deflate(Box<ZlibDecoder<Vec<u8>>>),
}

impl Coding {
    /// By the headers.
    ///
    /// # Errors
    /// It is coded in another way, or in several.
    pub(super) fn of(headers: &HeaderMap) -> Result<Coding, ServeError> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let (Some(value), more) = (values.next(), values.next()) else { return Ok(Coding::Identity) };
        let coding = Coding::named(&value.as_bytes().to_ascii_lowercase()).filter(|_| more.is_none());
        coding.ok_or_else(|| {
            let text = format!("Content-Encoding {value:?} is not read: send the body as it is, or as gzip or deflate");
            ServeError::MediaType(text)
        })
    }

    /// By a name that headers have for it, in small letters.
    pub(super) fn named(name: &[u8]) -> Option<Coding> {
        match name {
            b"identity" => Some(Coding::Identity),
            b"gzip" | b"x-gzip" => Some(Coding::Gzip(Box::new(GzDecoder::new(Vec::new())))),
            b"deflate" => Some(Coding::Deflate(Box::new(ZlibDecoder::new(Vec::new())))),
            _ => None,
        }
    }

    /// The pieces in which bytes of the body are to be decoded.
    pub(super) fn pieces<'a>(&self, data: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        data.chunks(if matches!(self, Coding::Identity) { data.len().max(1) } else { STEP })
    }

    /// What a piece adds to the body; some of it may come with the next one.
    ///
    /// # Errors
    /// The body is not coded as its headers say.
    pub(super) fn decode<'a>(&mut self, piece: &'a [u8]) -> Result<Cow<'a, [u8]>, ServeError> {
        let decoded = match self {
            Coding::Identity => return Ok(piece.into()),
            Coding::Gzip(decoder) => decoder.write_all(piece).map(|()| take(decoder.get_mut())),
            Coding::Deflate(decoder) => decoder.write_all(piece).map(|()| take(decoder.get_mut())),
        };
        decoded.map(Cow::from).map_err(|error| self.corrupt(&error))
    }

    /// What is left at the end.
    ///
    /// # Errors
    /// The end is missing, or the body is not what its checksum says.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, ServeError> {
        let rest = match &mut self {
            Coding::Identity => return Ok(Vec::new()),
            Coding::Gzip(decoder) => decoder.try_finish().map(|()| take(decoder.get_mut())),
            Coding::Deflate(decoder) => decoder.try_finish().map(|()| take(decoder.get_mut())),
        };
        rest.map_err(|error| self.corrupt(&error))
    }

    fn corrupt(&self, error: &io::Error) -> ServeError {
        let name = if matches!(self, Coding::Gzip(_)) { "gzip" } else { "deflate" };
        ServeError::Request(format!("the body is not {name}, as its headers say: {error}"))
    }
}
