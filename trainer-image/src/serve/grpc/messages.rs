//! The messages of a call as they come: each behind a byte that says whether it is compressed, and its length in 4 bytes. They are
//! read and inflated within the bounds of all protocols, and handed on as if they had come plain.

use axum::http::{HeaderMap, HeaderValue};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tonic::Status;
use tonic::body::Body;

use super::FRAME;
use crate::serve::app::App;
use crate::serve::body::{self, Bounds, Deadline, Reading};
use crate::serve::coding::Coding;
use crate::serve::error::ServeError;
use crate::serve::room::Share;

/// Bytes before a message.
const PREFIX: usize = 5;
/// How the messages of a call are compressed, where they are.
const ENCODING: &str = "grpc-encoding";
/// How those of the answer may be.
const ACCEPTED: &str = "grpc-accept-encoding";
/// What is read and written.
const KNOWN: &str = "identity,deflate,gzip";

/// What is left of a call's messages.
pub(super) struct Messages {
    body: Body,
    encoding: Option<HeaderValue>,
    bounds: Bounds,
    /// Seconds that each message has, with its answer.
    seconds: u32,
    /// What has come and is not read yet.
    come: Bytes,
}

/// How the messages of a call are compressed. From then on the head says that they are not, and that the answer is to be as the
/// messages were: clients say what they can read also where they would rather not.
///
/// # Errors
/// In a way that is not known.
pub(super) fn encoding(headers: &mut HeaderMap) -> Result<Option<HeaderValue>, Status> {
    let accepted = headers.remove(ACCEPTED);
    let Some(encoding) = headers.remove(ENCODING).filter(|encoding| encoding != "identity") else { return Ok(None) };
    if Coding::named(encoding.as_bytes()).is_none() {
        let mut refusal = Status::unimplemented(format!("grpc-encoding {encoding:?} is not read: send one of {KNOWN}"));
        if let Ok(known) = KNOWN.parse() {
            refusal.metadata_mut().insert(ACCEPTED, known);
        }
        return Err(refusal);
    }
    let is_accepted = |accepted: HeaderValue| {
        accepted.to_str().is_ok_and(|names| names.split(',').any(|name| encoding == name.trim()))
    };
    if accepted.is_some_and(is_accepted) {
        headers.insert(ACCEPTED, encoding.clone());
    }
    Ok(Some(encoding))
}

/// What stands before a message that is not compressed.
pub(super) fn prefix(message: &[u8]) -> Bytes {
    let mut prefix = BytesMut::zeroed(1);
    // No message is longer than its bounds, which 32 bits hold.
    prefix.extend_from_slice(&(message.len() as u32).to_be_bytes());
    prefix.freeze()
}

impl Messages {
    pub(super) fn new(app: &App, encoding: Option<HeaderValue>, body: Body) -> Messages {
        let limits = &app.settings.limits;
        let bounds = Bounds {
            bytes: limits.max_request_bytes as usize + FRAME,
            silence: app.settings.header_timeout,
            deadline: Deadline::after(limits.timeout_seconds),
        };
        Messages { body, encoding, bounds, seconds: limits.timeout_seconds, come: Bytes::new() }
    }

    /// Waits for the beginning of another message, as long as the client likes: whether there is one. Its time begins then.
    pub(super) async fn another(&mut self) -> Result<bool, ServeError> {
        while self.come.is_empty() {
            let Some(frame) = self.body.frame().await else { return Ok(false) };
            self.come = frame.map_err(|_| body::broke_off())?.into_data().unwrap_or_default();
        }
        self.bounds.deadline = Deadline::after(self.seconds);
        Ok(true)
    }

    /// The next message, inflated; none at the end. Its part of the room grows with it.
    pub(super) async fn next(&mut self, share: &mut Share) -> Result<Option<Bytes>, ServeError> {
        let mut prefix = Vec::with_capacity(PREFIX);
        while prefix.len() < PREFIX {
            match self.data(PREFIX - prefix.len()).await? {
                Some(data) => prefix.extend_from_slice(&data),
                None if prefix.is_empty() => return Ok(None),
                None => return Err(cut_off()),
            }
        }
        let mut coding = match prefix[0] {
            0 => Coding::Identity,
            1 => self.encoding.as_ref().and_then(|name| Coding::named(name.as_bytes())).ok_or_else(|| {
                ServeError::Request("a message is compressed, and no grpc-encoding says how".to_owned())
            })?,
            other => return Err(ServeError::Request(format!("a message begins with {other}, not with 0 or 1"))),
        };
        let mut left = prefix[1..].iter().fold(0, |length, byte| (length << 8) | usize::from(*byte));
        let mut read = Reading::new(self.bounds, share);
        if left > self.bounds.bytes {
            return Err(read.too_large());
        }
        while left > 0 {
            let data = self.data(left).await?.ok_or_else(cut_off)?;
            left -= data.len();
            for piece in coding.pieces(&data) {
                if !read.add(&coding.decode(piece)?).await? {
                    return Err(read.too_large());
                }
            }
        }
        if !read.add(&coding.finish()?).await? {
            return Err(read.too_large());
        }
        Ok(Some(read.all()))
    }

    /// That no other message comes.
    pub(super) async fn end(&mut self) -> Result<(), ServeError> {
        match self.data(1).await? {
            None => Ok(()),
            Some(_) => Err(ServeError::Request("there is more than one message, and one was expected".to_owned())),
        }
    }

    /// What comes next, at most so many bytes; none at the end.
    async fn data(&mut self, most: usize) -> Result<Option<Bytes>, ServeError> {
        while self.come.is_empty() {
            let Some(data) = body::data(&mut self.body, self.bounds).await? else { return Ok(None) };
            self.come = data;
        }
        Ok(Some(self.come.split_to(most.min(self.come.len()))))
    }
}

fn cut_off() -> ServeError {
    ServeError::Request("the message is cut off".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_compressed_as_the_request_was_if_the_client_reads_that() {
        let all = "identity, deflate, gzip";
        for (encoding_of, accepted, then) in [
            (None, Some(all), None),
            (Some("identity"), Some(all), None),
            (Some("gzip"), Some(all), Some("gzip")),
            (Some("deflate"), Some(all), Some("deflate")),
            (Some("gzip"), Some("identity"), None),
            (Some("gzip"), None, None),
        ] {
            let headers = [(ENCODING, encoding_of), (ACCEPTED, accepted)].into_iter();
            let mut headers: HeaderMap = headers
                .filter_map(|(name, value)| Some((name.parse().unwrap(), HeaderValue::from_static(value?))))
                .collect();
            let found = encoding(&mut headers).unwrap();
            assert_eq!(found.is_some(), encoding_of.is_some_and(|name| name != "identity"), "{encoding_of:?}");
            assert!(!headers.contains_key(ENCODING), "the messages are handed on plain");
            assert_eq!(
                headers.get(ACCEPTED).map(|value| value.to_str().unwrap()),
                then,
                "{encoding_of:?} {accepted:?}"
            );
        }
    }
}
