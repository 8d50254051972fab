//! What the protocol's extensions ask of models besides answers: configuration, statistics, and which there are.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Named, NamedPath, named};
use crate::serve::app::App;
use crate::serve::body::{self, Bounds, Deadline};
use crate::serve::error::ServeError;

/// Bytes of a question about the repository.
const MOST: usize = 4096;

/// What may be asked of the repository; an empty body asks for nothing special.
#[derive(Default, Deserialize)]
struct Question {
    /// Whether models that are still being loaded are left out.
    #[serde(default)]
    ready: bool,
}

pub(super) async fn config(State(app): State<Arc<App>>, path: NamedPath) -> Result<Json<Value>, ServeError> {
    let Named { model, version } = named(path)?;
    let (served, version) = app.version(&model, version.as_deref())?;
    Ok(Json(app.config(served, &version).to_json()))
}

pub(super) async fn statistics(State(app): State<Arc<App>>, path: NamedPath) -> Result<Json<Value>, ServeError> {
    let Named { model, version } = named(path)?;
    let (served, version) = app.version(&model, version.as_deref())?;
    Ok(Json(json!({"model_stats": [version.figures().to_json(&served.name, &version.name)]})))
}

pub(super) async fn all_statistics(State(app): State<Arc<App>>) -> Json<Value> {
    let models = app.models().iter().filter_map(|served| Some((served, served.current()?)));
    let figures = models.map(|(served, version)| version.figures().to_json(&served.name, &version.name));
    Json(json!({"model_stats": figures.collect::<Vec<_>>()}))
}

pub(super) async fn index(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, ServeError> {
    let (head, body) = request.into_parts();
    let deadline = Deadline::after(app.settings.limits.timeout_seconds);
    let bounds = Bounds { bytes: MOST, silence: app.settings.header_timeout, deadline };
    let body = body::read(&head.headers, body, bounds, &mut app.room.share()).await?;
    let Question { ready } = if body.is_empty() {
        Question::default()
    } else {
        let sentence = |error| ServeError::Request(format!("the body is no question about the repository: {error}"));
        serde_json::from_slice(&body).map_err(sentence)?
    };
    Ok(Json(json!(app.index(ready))))
}
