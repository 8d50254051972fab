//! `POST .../infer`: an inference request of the protocol, or simply an image.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::NamedPath;
use super::asked::{Asked, Content};
use crate::serve::app::App;
use crate::serve::aside::aside;
use crate::serve::engine::Picture;
use crate::serve::error::ServeError;
use crate::serve::metrics::Coming;
use crate::serve::models::Judged;
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
    let coming = coming(&app, "infer", &path);
    let answer = async {
        let Query(options) = query.map_err(|rejection| ServeError::Request(rejection.body_text()))?;
        let asked = Asked::read(&app, path, request).await?;
        let answer = async {
            match asked.content {
                Content::Image => image(&asked, &options).await,
                Content::Protocol => tensors(&asked).await,
            }
        };
        asked.deadline.within(answer).await
    };
    let response = answer.await.unwrap_or_else(IntoResponse::into_response);
    coming.ended(response.status().as_u16());
    response
}

/// Counts a request from now on.
pub(super) fn coming(app: &App, method: &'static str, path: &NamedPath) -> Coming {
    let model = path.as_ref().map_or("", |named| app.known(&named.model));
    app.metrics.coming("rest", method, model)
}

async fn image(asked: &Asked<'_>, options: &Options) -> Result<Response, ServeError> {
    let Asked { app, served, version, body, .. } = asked;
    let judged = version.judge(&app.engine, vec![Picture::Encoded(body.clone())]).await?;
    let [Judged { answer, class }] = judged.as_slice() else {
        return Err(ServeError::Internal("one image has more answers than one".to_owned()));
    };
    let told =
        |class: usize| ClassAnswer { label: version.class(class), class, probability: answer.probabilities[class] };
    let order = protocol::most_first(&answer.probabilities, options.top.unwrap_or(CLASSES));
    let answer = ImageAnswer {
        model_name: &served.name,
        model_version: &version.name,
        label: version.class(*class),
        class: *class,
        probability: answer.probabilities[*class],
        threshold: version.card.threshold,
        classes: order.into_iter().map(told).collect(),
    };
    Ok(Json(answer).into_response())
}

async fn tensors(asked: &Asked<'_>) -> Result<Response, ServeError> {
    let (request, pictures) = read(asked).await?;
    let is_large = protocol::is_large(&request, asked.version.card.classes.len(), pictures.len())?;
    let judged = asked.version.judge(&asked.app.engine, pictures).await?;
    let (name, version) = (asked.served.name.clone(), Arc::clone(&asked.version));
    let answer = move || {
        let outputs = protocol::outputs(&request, &version, &judged)?;
        let mut binary = Vec::new();
        let answer = TensorAnswer {
            model_name: &name,
            model_version: &version.name,
            id: request.id.as_deref(),
            outputs: outputs.iter().map(|output| output.write(&mut binary)).collect(),
        };
        write(&answer, binary)
    };
    aside(is_large, answer).await
}

/// Reads a request of the protocol, on another thread if it takes a while: what is asked, and the images.
pub(super) async fn read(asked: &Asked<'_>) -> Result<(protocol::Request, Vec<Picture>), ServeError> {
    let header = asked.headers.get(HEADER_LENGTH).map(HeaderValue::as_bytes);
    let (json, binary) = protocol::split(&asked.body, header)?;
    let (most, size) = (asked.app.most(&asked.version), asked.version.size());
    let share = Arc::clone(&asked.share);
    let read = move || {
        // The client may leave meanwhile; the body is here until it is read.
        let _share = share;
        let mut request = protocol::read(&json, binary, most)?;
        let pictures = protocol::pictures(std::mem::take(&mut request.inputs), size)?;
        Ok((request, pictures))
    };
    aside(asked.body.len() >= LARGE, read).await
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
