//! Reads the body of a request within its bounds: bytes and time.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::serve::error::ServeError;

/// What a request may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) bytes: usize,
    pub(super) seconds: u64,
    /// When the answer is due.
    pub(super) deadline: Instant,
}

/// Bytes that a body takes at most: what it announces, or what is allowed.
pub(super) fn most(headers: &HeaderMap, allowed: usize) -> u32 {
    let bytes = declared(headers).map_or(allowed, |declared| declared.min(allowed));
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What a body announces; in chunks it announces nothing, whatever else the headers say.
fn declared(headers: &HeaderMap) -> Option<usize> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The whole body.
///
/// # Errors
/// It is compressed, too large or too slow, or its client left.
pub(super) async fn read(headers: &HeaderMap, body: Body, bounds: Bounds) -> Result<Bytes, ServeError> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let text = format!("Content-Encoding {encoding:?} is not read: send the body as it is");
        return Err(ServeError::MediaType(text));
    }
    match timeout_at(bounds.deadline, collect(headers, body, bounds.bytes)).await {
        Ok(read) => read,
        Err(_) => Err(ServeError::Slow(bounds.seconds)),
    }
}

async fn collect(headers: &HeaderMap, mut body: Body, most: usize) -> Result<Bytes, ServeError> {
    // Memory is taken as bytes come, not as they are announced.
    let mut read = BytesMut::new();
    let mut length = 0_usize;
    let mut too_large = declared(headers).is_some_and(|declared| declared > most);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ServeError::Request("the body broke off".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length > most {
            too_large = true;
            read = BytesMut::new();
        }
        if too_large {
            // Most clients look for an answer when they have sent all: as much again is read for nothing, and no more.
            if length > most.saturating_mul(2) {
                break;
            }
        } else {
            read.extend_from_slice(&data);
        }
    }
    if too_large {
        return Err(ServeError::TooLarge(format!("the body has more than the {most} bytes allowed")));
    }
    Ok(read.freeze())
}
