//! REST: the addresses and what they answer.

mod asked;
mod explain;
mod infer;
mod openapi;
mod overlay;
mod page;
mod repository;

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use crds::contract::paths;
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::App;
use super::error::ServeError;
use super::protocol::{self, Described};
use super::{metrics, models};

/// The addresses.
pub(super) fn router(app: &Arc<App>) -> Router {
    let guarded = Router::new()
        .route("/v2/models/{model}", get(metadata))
        .route("/v2/models/{model}/versions/{version}", get(metadata))
        .route("/v2/models/{model}/config", get(repository::config))
        .route("/v2/models/{model}/versions/{version}/config", get(repository::config))
        .route("/v2/models/{model}/stats", get(repository::statistics))
        .route("/v2/models/{model}/versions/{version}/stats", get(repository::statistics))
        .route("/v2/models/stats", get(repository::all_statistics))
        .route("/v2/repository/index", post(repository::index))
        .route("/v2/models/{model}/infer", post(infer::infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer::infer))
        .route("/v2/models/{model}/explain", post(explain::explain))
        .route("/v2/models/{model}/versions/{version}/explain", post(explain::explain))
        .route_layer(middleware::from_fn_with_state(Arc::clone(app), authorize));
    let open = Router::new()
        .route("/v2", get(server))
        .route(paths::LIVE, get(live))
        .route(paths::READY, get(ready))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/", get(page::page))
        .route("/openapi.json", get(async |State(app): State<Arc<App>>| Json(openapi::document(&app))))
        .route("/metrics", get(scrape))
        .route(paths::SERVING, get(async |State(app): State<Arc<App>>| Json(app.serving())));
    open.merge(guarded)
        .fallback(async |uri: Uri| ServeError::NotFound(format!("there is nothing at {}", uri.path())))
        .method_not_allowed_fallback(async |method: Method| ServeError::Method(method.to_string()))
        .with_state(Arc::clone(app))
        .layer(middleware::map_response_with_state(Arc::clone(app), part))
}

/// Before the server ends it asks clients to connect anew, elsewhere: a connection that is kept until then may break off under
/// a request.
async fn part(State(app): State<Arc<App>>, mut response: Response) -> Response {
    if app.is_stopping() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Lets only those in who bear the token.
async fn authorize(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    match app.authorize(header) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// A model, and perhaps its version, as an address names them.
#[derive(Deserialize)]
struct Named {
    model: String,
    #[serde(default)]
    version: Option<String>,
}

type NamedPath = Result<Path<Named>, PathRejection>;

fn named(path: NamedPath) -> Result<Named, ServeError> {
    path.map(|Path(named)| named).map_err(|rejection| ServeError::Request(rejection.body_text()))
}

async fn server(State(app): State<Arc<App>>) -> Json<Value> {
    let chosen = app.chosen();
    Json(json!({
        "name": protocol::SERVER,
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": protocol::EXTENSIONS,
        "device": chosen.name(),
        "device_reason": chosen.reason,
        "models": app.models().iter().map(|served| served.name.as_str()).collect::<Vec<_>>(),
    }))
}

async fn live(State(app): State<Arc<App>>) -> Response {
    health("live", app.is_live())
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    health("ready", app.is_ready())
}

fn health(what: &str, is_so: bool) -> Response {
    let status = if is_so { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({what: is_so}))).into_response()
}

async fn model_ready(State(app): State<Arc<App>>, path: NamedPath) -> Result<Json<Value>, ServeError> {
    let Named { model, version } = named(path)?;
    app.version(&model, version.as_deref())?;
    Ok(Json(json!({"name": model, "ready": true})))
}

async fn metadata(State(app): State<Arc<App>>, path: NamedPath) -> Result<Json<Value>, ServeError> {
    let Named { model, version } = named(path)?;
    let (served, version) = app.version(&model, version.as_deref())?;
    let tensors = |described: &[Described]| described.iter().map(Described::to_json).collect::<Vec<_>>();
    let mut document = json!({
        "name": served.name,
        "versions": [version.name],
        "platform": protocol::PLATFORM,
        "inputs": tensors(&protocol::inputs(version.size())),
        "outputs": tensors(&protocol::described_outputs(version.card.classes.len())),
        "architecture": version.card.architecture.name(),
        "digest": version.digest,
        "classes": version.card.classes,
        "device": version.chosen.name(),
        "explain": app.settings.explain,
    });
    if !version.chosen.reason.is_empty() {
        document["device_reason"] = json!(version.chosen.reason);
    }
    if let Some(threshold) = version.card.threshold {
        document["threshold"] = json!(threshold);
    }
    Ok(Json(document))
}

async fn scrape(State(app): State<Arc<App>>) -> Response {
    let waiting = app.models().iter().map(models::Served::waiting).sum();
    match app.metrics.encode(waiting) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response(),
        Err(error) => ServeError::Internal(error.to_string()).into_response(),
    }
}
