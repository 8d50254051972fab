//! `POST .../infer`: an inference request of the protocol, or simply an image.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::NamedPath;
use super::asked::{Asked, Content};
use crate::serve::app::App;
use crate::serve::engine::Picture;
use crate::serve::error::ServeError;
use crate::serve::metrics::Ended;
use crate::serve::models::{Judged, Served, Version};
use crate::serve::protocol::{self, HEADER_LENGTH, Written};

/// Bytes of a body from which on it is read on another thread, for the others' sake.
const LARGE: usize = 1 << 20;
/// Classes of an image that are told unless the query says how many.
const CLASSES: usize = 10;

/// What an image's query may say.
#[derive(Deserialize)]
pub(super) struct Options {
    /// How many classes to tell.
    top: Option<usize>,
}

/// What an image is answered with.
#[derive(Serialize)]
struct ImageAnswer<'a> {
    model_name: &'a str,
    model_version: &'a str,
    /// The class that the model decides for.
    label: &'a str,
    class: usize,
    probability: f32,
    /// For two classes: probability of the second from which on it is decided for.
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f64>,
    /// The most probable classes first.
    classes: Vec<ClassAnswer<'a>>,
}

#[derive(Serialize)]
struct ClassAnswer<'a> {
    label: &'a str,
    class: usize,
    probability: f32,
}

/// What the protocol answers with.
#[derive(Serialize)]
struct TensorAnswer<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<Written<'a>>,
}

pub(super) async fn infer(
    State(app): State<Arc<App>>,
    path: NamedPath,
    query: Result<Query<Options>, QueryRejection>,
    request: Request,
) -> Response {
    let answer = async {
        let Query(options) = query.map_err(|rejection| ServeError::Request(rejection.body_text()))?;
        let asked = Asked::read(&app, path, request).await?;
        let (served, version) = app.version(&asked.named.model, asked.named.version.as_deref())?;
        let answer = async {
            match asked.content {
                Content::Image => image(&app, served, &version, &options, asked.body.clone()).await,
                Content::Protocol => tensors(served, &version, &asked).await,
            }
        };
        asked.deadline.within(answer).await
    };
    let response = answer.await.unwrap_or_else(IntoResponse::into_response);
    app.metrics.ended(&Ended { protocol: "rest", method: "infer", code: response.status().as_u16() });
    response
}

async fn image(
    app: &App,
    served: &Served,
    version: &Version,
    options: &Options,
    body: Bytes,
) -> Result<Response, ServeError> {
    let judged = version.judge(&app.engine, vec![Picture::Encoded(body)]).await?;
    let [Judged { answer, class }] = judged.as_slice() else {
        return Err(ServeError::Internal("one image has more answers than one".to_owned()));
    };
    let told =
        |class: usize| ClassAnswer { label: version.class(class), class, probability: answer.probabilities[class] };
    let order = protocol::most_first(&answer.probabilities);
    let answer = ImageAnswer {
        model_name: &served.name,
        model_version: &version.name,
        label: version.class(*class),
        class: *class,
        probability: answer.probabilities[*class],
        threshold: version.card.threshold,
        classes: order.into_iter().take(options.top.unwrap_or(CLASSES)).map(told).collect(),
    };
    Ok(Json(answer).into_response())
}

async fn tensors(served: &Served, version: &Version, asked: &Asked<'_>) -> Result<Response, ServeError> {
    let mut request = read(asked).await?;
    let pictures = protocol::pictures(std::mem::take(&mut request.inputs), version.size())?;
    let judged = version.judge(&asked.app.engine, pictures).await?;
    let outputs = protocol::outputs(&request, version, &judged)?;
    let mut binary = Vec::new();
    let answer = TensorAnswer {
        model_name: &served.name,
        model_version: &version.name,
        id: request.id.as_deref(),
        outputs: outputs.iter().map(|output| output.write(&mut binary)).collect(),
    };
    write(&answer, binary)
}

/// Reads a request of the protocol, on another thread if it takes a while.
pub(super) async fn read(asked: &Asked<'_>) -> Result<protocol::Request, ServeError> {
    let header = asked.headers.get(HEADER_LENGTH).map(HeaderValue::as_bytes);
    let (json, binary) = protocol::split(&asked.body, header)?;
    if asked.body.len() < LARGE {
        return protocol::read(&json, binary);
    }
    let share = Arc::clone(&asked.share);
    let read = tokio::task::spawn_blocking(move || {
        // The client may leave meanwhile; the body is here until it is read.
        let _share = share;
        protocol::read(&json, binary)
    });
    let read = read.await;
    read.unwrap_or_else(|_| Err(ServeError::Internal("the thread that read the request was lost".to_owned())))
}

/// An answer in JSON, with binary data behind it if there are any.
pub(super) fn write(answer: &impl Serialize, binary: Vec<u8>) -> Result<Response, ServeError> {
    let mut body = serde_json::to_vec(answer).map_err(|error| ServeError::Internal(error.to_string()))?;
    if binary.is_empty() {
        return Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response());
    }
    let length = HeaderValue::from(body.len());
    body.extend(binary);
    let mut response = ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response();
    response.headers_mut().insert(HeaderName::from_static(HEADER_LENGTH), length);
    Ok(response)
}
