//! Reads the body of a request, of any protocol, within its bounds: bytes, time, and the room that all bodies have.

use axum::body::HttpBody;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::coding::Coding;
use super::error::ServeError;
use super::room::Share;

/// What a request may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) bytes: usize,
    /// How long a client may send nothing.
    pub(super) silence: Duration,
    /// When the answer is due.
    pub(super) deadline: Deadline,
}

/// When the answer to a request is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    seconds: u64,
}

impl Deadline {
    /// So many seconds from now.
    pub(super) fn after(seconds: u32) -> Deadline {
        let seconds = u64::from(seconds);
        Deadline { at: Instant::now() + Duration::from_secs(seconds), seconds }
    }

    /// The answer, if it comes in time.
    pub(super) async fn within<T>(self, answer: impl Future<Output = Result<T, ServeError>>) -> Result<T, ServeError> {
        timeout_at(self.at, answer).await.unwrap_or(Err(ServeError::Timeout(self.seconds)))
    }
}

/// What a body announces; in chunks it announces nothing, whatever else the headers say.
fn declared(headers: &HeaderMap) -> Option<usize> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The whole body, decoded if it is compressed; its part of the room grows with it.
///
/// # Errors
/// It is too large, too slow or silent, not coded as it says, its client left, or others hold the room.
pub(super) async fn read<B: HttpBody<Data = Bytes> + Unpin>(
    headers: &HeaderMap,
    mut body: B,
    bounds: Bounds,
    share: &mut Share,
) -> Result<Bytes, ServeError> {
    let most = bounds.bytes;
    let mut coding = Coding::of(headers)?;
    let mut read = Reading::new(bounds, share);
    let mut sent = 0_usize;
    let mut is_too_large = declared(headers).is_some_and(|declared| declared > most);
    while let Some(data) = data(&mut body, bounds).await? {
        sent = sent.saturating_add(data.len());
        for piece in coding.pieces(&data) {
            is_too_large = is_too_large || !read.add(&coding.decode(piece)?).await?;
            if is_too_large {
                read.bytes = BytesMut::new();
                break;
            }
        }
        // Most clients look for an answer when they have sent all: as much again is read for nothing, and no more.
        if is_too_large && sent > most.saturating_mul(2) {
            break;
        }
    }
    if is_too_large || !read.add(&coding.finish()?).await? {
        return Err(read.too_large());
    }
    Ok(read.all())
}

/// What comes next of a body; none at its end.
///
/// # Errors
/// It is too slow or silent, or its client left.
pub(super) async fn data<B: HttpBody<Data = Bytes> + Unpin>(
    body: &mut B,
    bounds: Bounds,
) -> Result<Option<Bytes>, ServeError> {
    let Bounds { silence, deadline, .. } = bounds;
    loop {
        let frame = timeout_at(deadline.at, timeout(silence, body.frame())).await;
        let frame = frame.map_err(|_| ServeError::Slow(deadline.seconds))?;
        let Some(frame) = frame.map_err(|_| ServeError::Silent(silence.as_secs()))? else { return Ok(None) };
        if let Ok(data) = frame.map_err(|_| broke_off())?.into_data() {
            return Ok(Some(data));
        }
    }
}

/// What is said of a body whose client left.
pub(super) fn broke_off() -> ServeError {
    ServeError::Request("the body broke off".to_owned())
}

/// What has been read of a body. Memory is taken as bytes come, not as they are announced.
pub(super) struct Reading<'a> {
    bytes: BytesMut,
    share: &'a mut Share,
    deadline: Deadline,
    most: usize,
}

impl Reading<'_> {
    pub(super) fn new(bounds: Bounds, share: &mut Share) -> Reading<'_> {
        Reading { bytes: BytesMut::new(), share, deadline: bounds.deadline, most: bounds.bytes }
    }

    /// Adds bytes, unless they are too many: whether they are not.
    pub(super) async fn add(&mut self, more: &[u8]) -> Result<bool, ServeError> {
        let length = self.bytes.len() + more.len();
        if length > self.most {
            return Ok(false);
        }
        let grown = timeout_at(self.deadline.at, self.share.grow(length)).await;
        grown.map_err(|_| full(self.deadline.seconds))?;
        self.bytes.extend_from_slice(more);
        Ok(true)
    }

    /// What is said of too many bytes.
    pub(super) fn too_large(&self) -> ServeError {
        ServeError::TooLarge(format!("the body has more than the {} bytes allowed", self.most))
    }

    /// What was read.
    pub(super) fn all(self) -> Bytes {
        self.bytes.freeze()
    }
}

fn full(seconds: u64) -> ServeError {
    ServeError::Unavailable(format!("there was no room for the body within {seconds} seconds: others hold it"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::http::HeaderValue;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use http_body_util::Full;
    use tokio::runtime::Builder;

    use super::*;
    use crate::serve::room::Room;

    const MOST: usize = 100_000;

    fn sent(encoding: &'static str, body: impl Into<Bytes>) -> Result<Bytes, String> {
        let headers = [(header::CONTENT_ENCODING, HeaderValue::from_static(encoding))].into_iter().collect();
        let bounds = Bounds { bytes: MOST, silence: Duration::from_secs(1), deadline: Deadline::after(1) };
        let mut share = Room::new(MOST).share();
        let read = read(&headers, Full::new(body.into()), bounds, &mut share);
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(read).map_err(|error| error.to_string())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_body_is_decoded_as_its_headers_say() {
        let mixed: Vec<u8> = (0..MOST).map(|index| (index * index / 7 % 251) as u8).collect();
        for body in [&b""[..], b"abc", &[7; MOST], &mixed] {
            assert_eq!(sent("identity", body.to_vec()).unwrap(), body);
            assert_eq!(sent("gzip", gzip(body)).unwrap(), body);
            assert_eq!(sent("X-GZip", gzip(body)).unwrap(), body);
            assert_eq!(sent("deflate", deflate(body)).unwrap(), body);
        }
        let sentence = "Content-Encoding \"br\" is not read: send the body as it is, or as gzip or deflate";
        assert_eq!(sent("br", "abc"), Err(sentence.to_owned()));
        let cut = gzip(b"abc");
        let mut changed = cut.clone();
        changed[12] ^= 1;
        for (encoding, body) in [
            ("gzip", b"abc".to_vec()),
            ("gzip", cut[..cut.len() - 3].to_vec()),
            ("gzip", [&cut[..], b"more"].concat()),
            ("gzip", changed),
            ("deflate", gzip(b"abc")),
        ] {
            let error = sent(encoding, body).unwrap_err();
            assert!(error.starts_with(&format!("the body is not {encoding}, as its headers say")), "{error}");
        }
    }

    #[test]
    fn what_a_body_becomes_is_bounded_as_what_is_sent() {
        let sentence = || Err(format!("the body has more than the {MOST} bytes allowed"));
        for length in [MOST + 1, 100 * MOST] {
            let body = vec![0; length];
            assert_eq!(sent("identity", body.clone()), sentence());
            assert_eq!(sent("gzip", gzip(&body)), sentence());
            assert_eq!(sent("deflate", deflate(&body)), sentence());
        }
    }
}
