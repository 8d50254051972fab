//! `POST .../explain`: where in an image the network sees a class, as a picture for people or as a tensor for programs.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::asked::{Asked, Content};
use super::{NamedPath, infer, overlay};
use crate::serve::app::App;
use crate::serve::engine::{Explained, Picture};
use crate::serve::error::ServeError;
use crate::serve::protocol::{self, Data, Output, Written};

/// Name of the tensor.
const HEAT_MAP: &str = "heat_map";

/// What the query may say.
#[derive(Deserialize)]
pub(super) struct Options {
    /// The class to look for, by name or index; the one that the model decides for if it is left out.
    class: Option<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    /// The class that was looked for.
    label: &'a str,
    class: usize,
    probability: f32,
    outputs: [Written<'a>; 1],
}

pub(super) async fn explain(
    State(app): State<Arc<App>>,
    path: NamedPath,
    query: Result<Query<Options>, QueryRejection>,
    request: Request,
) -> Response {
    let coming = infer::coming(&app, "explain", &path);
    let answer = async {
        let Query(options) = query.map_err(|rejection| ServeError::Request(rejection.body_text()))?;
        let asked = Asked::read(&app, path, request).await?;
        asked.deadline.within(answer(&options, &asked)).await
    };
    let response = answer.await.unwrap_or_else(IntoResponse::into_response);
    coming.ended(response.status().as_u16());
    response
}

async fn answer(options: &Options, asked: &Asked<'_>) -> Result<Response, ServeError> {
    let Asked { app, served, version, .. } = asked;
    let (picture, request) = match asked.content {
        Content::Image => (Picture::Encoded(asked.body.clone()), protocol::Request::default()),
        Content::Protocol => {
            let (request, pictures) = infer::read(asked).await?;
            let [picture] = <[Picture; 1]>::try_from(pictures).map_err(|pictures| {
                ServeError::Request(format!("one image is explained at a time, not {}", pictures.len()))
            })?;
            (picture, request)
        }
    };
    let explained = version.explain(&app.engine, picture, options.class.as_deref()).await?;
    if wants_picture(&asked.headers, asked.content) {
        let size = version.size();
        let drawn = tokio::task::spawn_blocking(move || overlay::png(&explained.pixels, &explained.map, size)).await;
        let png = drawn.map_err(|error| ServeError::Internal(error.to_string()))?;
        return Ok(([(header::CONTENT_TYPE, "image/png")], png).into_response());
    }
    let Explained { answer, class, map, .. } = explained;
    let size = version.size() as i64;
    let output = Output {
        name: HEAT_MAP,
        shape: vec![1, size, size],
        data: Data::Floats(map),
        binary: request.binary_output || request.outputs.iter().any(|wanted| wanted.binary == Some(true)),
    };
    let mut binary = Vec::new();
    let written = Answer {
        model_name: &served.name,
        model_version: &version.name,
        id: request.id.as_deref(),
        label: version.class(class),
        class,
        probability: answer.probabilities[class],
        outputs: [output.write(&mut binary)],
    };
    infer::write(&written, binary)
}

/// Whether a picture is what the client wants: it says so, or it sent one and doesn't say.
fn wants_picture(headers: &HeaderMap, content: Content) -> bool {
    let accepted =
        headers.get(header::ACCEPT).map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    match accepted {
        Some(accepted) if accepted.contains("image/") => true,
        Some(accepted) if accepted.contains("json") => false,
        _ => content == Content::Image,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_picture_is_answered_with_a_picture_unless_the_client_wants_numbers() {
        let table = [
            (None, Content::Image, true),
            (Some("*/*"), Content::Image, true),
            (Some("application/json"), Content::Image, false),
            (None, Content::Protocol, false),
            (Some("image/png"), Content::Protocol, true),
        ];
        for (accepted, content, picture) in table {
            let accepted = accepted.map(|value| (header::ACCEPT, HeaderValue::from_static(value)));
            assert_eq!(wants_picture(&accepted.into_iter().collect(), content), picture);
        }
    }
}
