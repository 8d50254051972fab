//! What a client is told when it gets no answer: a sentence, and the code of its protocol.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use crds::contract::Cause;
use serde_json::json;
use thiserror::Error;

use crate::data::ImageFault;
use crate::fault::Fault;

/// Why a request gets no answer.
#[derive(Clone, Debug, PartialEq, Error)]
pub(super) enum ServeError {
    /// The request can't be understood, or asks for what there isn't.
    #[error("{0}")]
    Request(String),
    /// An image of the request can't be read.
    #[error("image {}: {fault}", index + 1)]
    Image {
        /// Its place in the request, from 0.
        index: usize,
        /// What is wrong with it.
        fault: ImageFault,
    },
    /// No such model, version or address.
    #[error("{0}")]
    NotFound(String),
    /// The address knows no such method.
    #[error("this address knows no {0}")]
    Method(String),
    /// No token, or another one.
    #[error("the bearer token is missing or wrong: send the header Authorization: Bearer TOKEN")]
    Unauthorized,
    /// More bytes, pixels or images than a request may have.
    #[error("{0}")]
    TooLarge(String),
    /// Content of a type that isn't read.
    #[error("{0}")]
    MediaType(String),
    /// The request didn't arrive in time.
    #[error("the request did not arrive within {0} seconds")]
    Slow(u64),
    /// The client stopped in the midst of the request.
    #[error("nothing of the request arrived for {0} seconds: send its body without a pause")]
    Silent(u64),
    /// Too many images wait.
    #[error("{waiting} images wait already, and no more than {most} may: try again later")]
    QueueFull {
        /// Images that wait.
        waiting: usize,
        /// Images that may.
        most: usize,
    },
    /// Not yet, or not any more.
    #[error("{0}")]
    Unavailable(String),
    /// It took too long.
    #[error("there was no answer within {0} seconds")]
    Timeout(u64),
    /// The server is at fault.
    #[error("{0}")]
    Internal(String),
}

/// Seconds after which a refused client may try again.
const RETRY_AFTER: &str = "1";

impl ServeError {
    /// What the clients of a batch that failed are told.
    pub(super) fn of_network(fault: &Fault, images: usize) -> ServeError {
        match fault.cause() {
            Cause::GpuMemory | Cause::HostMemory => {
                ServeError::Unavailable(format!("memory ran out with a batch of {images} images"))
            }
            Cause::NodeFault => ServeError::Unavailable("the GPU failed: the server starts anew".to_owned()),
            // The text may speak of this machine: it is in the log.
            _ => ServeError::Internal("the network failed on this input: the server's log says why".to_owned()),
        }
    }

    /// What is said of a request with more images than `most`, which may wait.
    pub(super) fn too_many(most: usize) -> ServeError {
        let text = format!("there are more images in the request than the {most} that may wait: send them in parts");
        ServeError::TooLarge(text)
    }

    /// The error of an image.
    pub(super) fn image(index: usize, fault: ImageFault) -> ServeError {
        match fault {
            ImageFault::TooManyPixels { .. } | ImageFault::TooManyBytes { .. } => {
                ServeError::TooLarge(fault.to_string())
            }
            fault => ServeError::Image { index, fault },
        }
    }

    /// The status of HTTP.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            ServeError::Request(_) | ServeError::Image { .. } => StatusCode::BAD_REQUEST,
            ServeError::NotFound(_) => StatusCode::NOT_FOUND,
            ServeError::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            ServeError::Unauthorized => StatusCode::UNAUTHORIZED,
            ServeError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ServeError::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ServeError::Slow(_) | ServeError::Silent(_) => StatusCode::REQUEST_TIMEOUT,
            ServeError::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            ServeError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            ServeError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            ServeError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for ServeError {
    /// The protocol's error object.
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(json!({"error": self.to_string()}))).into_response();
        let headers = response.headers_mut();
        match self {
            ServeError::QueueFull { .. } | ServeError::Unavailable(_) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
            }
            ServeError::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // What is left of the body stays unread.
            ServeError::Slow(_) | ServeError::Silent(_) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}
