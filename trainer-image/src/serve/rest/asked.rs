//! What `infer` and `explain` have in common: which model, what kind of body, how much of it, and until when.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::Bytes;

use super::{NamedPath, named};
use crate::serve::app::App;
use crate::serve::body::{self, Bounds, Deadline};
use crate::serve::error::ServeError;
use crate::serve::models::{Served, Version};
use crate::serve::protocol::HEADER_LENGTH;
use crate::serve::room::Share;

/// A request that has arrived whole.
pub(super) struct Asked<'a> {
    pub(super) app: &'a App,
    pub(super) served: &'a Served,
    /// The version that was there when the request began, which answers it whatever takes its place meanwhile.
    pub(super) version: Arc<Version>,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
    pub(super) body: Bytes,
    pub(super) deadline: Deadline,
    /// The body's part of the room that all bodies have. Who goes on with the body on another thread holds it as well.
    pub(super) share: Arc<Share>,
}

/// What a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A file of an image.
    Image,
    /// An inference request.
    Protocol,
}

impl<'a> Asked<'a> {
    /// Reads the rest of a request, once it is known that there is somebody to answer it.
    pub(super) async fn read(app: &'a Arc<App>, path: NamedPath, request: Request) -> Result<Asked<'a>, ServeError> {
        let limits = &app.settings.limits;
        let deadline = Deadline::after(limits.timeout_seconds);
        let named = named(path)?;
        let (head, body) = request.into_parts();
        let content = Content::of(&head.headers)?;
        let (served, version) = app.version(&named.model, named.version.as_deref())?;
        let silence = app.settings.header_timeout;
        let bounds = Bounds { bytes: limits.max_request_bytes as usize, silence, deadline };
        let mut share = app.room.share();
        let body = body::read(&head.headers, body, bounds, &mut share).await?;
        if let (Content::Protocol, Some(kind)) = (content, kind_of_image(&body)) {
            return Err(ServeError::MediaType(format!(
                "the body is an image, and the headers say that it is an inference request: send it with Content-Type: {kind} (curl \
                 --data-binary @FILE -H 'Content-Type: {kind}')"
            )));
        }
        Ok(Asked { app, served, version, headers: head.headers, content, body, deadline, share: Arc::new(share) })
    }
}

impl Content {
    /// By the headers. `curl -d` calls everything a form, and the protocol's clients call their JSON nothing.
    fn of(headers: &HeaderMap) -> Result<Content, ServeError> {
        if headers.contains_key(HEADER_LENGTH) {
            return Ok(Content::Protocol);
        }
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Content::Protocol) };
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        match text.split(';').next().unwrap_or_default().trim() {
            "application/json" | "application/x-www-form-urlencoded" => Ok(Content::Protocol),
            "application/octet-stream" => Ok(Content::Image),
            other if other.starts_with("image/") => Ok(Content::Image),
            _ => Err(ServeError::MediaType(format!(
                "the content type {text:?} is not read: send an image as image/jpeg, image/png and so on, or an inference \
                 request as application/json"
            ))),
        }
    }
}

/// The content type of an image by its first bytes, which none of the protocol's requests has.
fn kind_of_image(body: &[u8]) -> Option<&'static str> {
    match body {
        [0xFF, 0xD8, 0xFF, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn an_image_is_known_by_its_first_bytes() {
        let table: [(&[u8], _); 5] = [
            (b"\xFF\xD8\xFF\xE0\0\x10JFIF", Some("image/jpeg")),
            (b"\x89PNG\r\n\x1A\n", Some("image/png")),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"{\"inputs\": []}", None),
            (b"", None),
        ];
        for (body, kind) in table {
            assert_eq!(kind_of_image(body), kind, "{body:?}");
        }
    }

    #[test]
    fn the_headers_say_what_a_body_holds() {
        let of = |pairs: &[(header::HeaderName, &'static str)]| {
            let headers = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            Content::of(&headers.collect()).map_err(|error| error.status().as_u16())
        };
        let length = header::HeaderName::from_static(HEADER_LENGTH);
        let table = [
            (vec![], Ok(Content::Protocol)),
            (vec![(header::CONTENT_TYPE, "application/json; charset=utf-8")], Ok(Content::Protocol)),
            (vec![(header::CONTENT_TYPE, "application/x-www-form-urlencoded")], Ok(Content::Protocol)),
            (vec![(header::CONTENT_TYPE, "Image/JPEG")], Ok(Content::Image)),
            (vec![(header::CONTENT_TYPE, "application/octet-stream")], Ok(Content::Image)),
            (vec![(header::CONTENT_TYPE, "application/octet-stream"), (length, "2")], Ok(Content::Protocol)),
            (vec![(header::CONTENT_TYPE, "multipart/form-data")], Err(415)),
            (vec![(header::CONTENT_TYPE, "")], Err(415)),
        ];
        for (headers, content) in table {
            assert_eq!(of(&headers), content, "{headers:?}");
        }
    }
}
