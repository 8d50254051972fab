//! `GET /`: a page on which a person drops an image and sees what a model says, and where it sees it.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::serve::app::App;
use crate::serve::error::ServeError;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

#[derive(Template)]
#[template(path = "serve/rest/page.html")]
struct Page<'a> {
    models: Vec<&'a str>,
    /// Whether requests must bear a token, for which the page then asks.
    guarded: bool,
    explain: bool,
    device: &'a str,
    reason: &'a str,
    version: &'static str,
    style: &'static str,
    script: &'static str,
}

pub(super) async fn page(State(app): State<Arc<App>>) -> Response {
    let chosen = app.chosen();
    let page = Page {
        models: app.models().iter().map(|served| served.name.as_str()).collect(),
        guarded: app.is_guarded(),
        explain: app.settings.explain,
        device: chosen.name(),
        reason: &chosen.reason,
        version: env!("CARGO_PKG_VERSION"),
        style: STYLE,
        script: SCRIPT,
    };
    // The page's own script runs and nothing else, and it talks to this server alone.
    let digest = STANDARD.encode(Sha256::digest(SCRIPT));
    let policy = format!(
        "default-src 'none'; img-src blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    match page.render() {
        Ok(text) => ([(header::CONTENT_SECURITY_POLICY, policy)], Html(text)).into_response(),
        Err(error) => ServeError::Internal(error.to_string()).into_response(),
    }
}
