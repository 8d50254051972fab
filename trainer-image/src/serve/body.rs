//! Reads the body of a request, of any protocol, within its bounds: bytes, time, and the room that all bodies have.

use axum::body::HttpBody;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{Duration, Instant, timeout, timeout_at};

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

/// The whole body, whose part of the room grows with it.
///
/// # Errors
/// It is too large, too slow or silent, its client left, or others hold the room.
pub(super) async fn read<B: HttpBody<Data = Bytes> + Unpin>(
    headers: &HeaderMap,
    mut body: B,
    bounds: Bounds,
    share: &mut Share,
) -> Result<Bytes, ServeError> {
    let Bounds { bytes: most, silence, deadline } = bounds;
    // Memory is taken as bytes come, not as they are announced.
    let mut read = BytesMut::new();
    let mut length = 0_usize;
    let mut too_large = declared(headers).is_some_and(|declared| declared > most);
    loop {
        let frame = timeout_at(deadline.at, timeout(silence, body.frame())).await;
        let frame = frame.map_err(|_| ServeError::Slow(deadline.seconds))?;
        let Some(frame) = frame.map_err(|_| ServeError::Silent(silence.as_secs()))? else { break };
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
            timeout_at(deadline.at, share.grow(length)).await.map_err(|_| full(deadline.seconds))?;
            read.extend_from_slice(&data);
        }
    }
    if too_large {
        return Err(ServeError::TooLarge(format!("the body has more than the {most} bytes allowed")));
    }
    Ok(read.freeze())
}

fn full(seconds: u64) -> ServeError {
    ServeError::Unavailable(format!("there was no room for the body within {seconds} seconds: others hold it"))
}
