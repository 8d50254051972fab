//! Looks for new versions of the models, and puts them in the place of the old ones without a request noticing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use super::app::App;
use super::models::Served;
use crate::model;

/// Stops the watching when it is dropped.
pub(super) struct Watch(#[expect(dead_code, reason = "the thread notices that it is gone")] Sender<()>);

/// Looks at each model every `period`.
///
/// # Errors
/// The system gives no thread.
pub(super) fn start(app: &Arc<App>, period: Duration) -> io::Result<Watch> {
    let (sender, stop) = mpsc::channel();
    let app = Arc::clone(app);
    thread::Builder::new().name("watch".to_owned()).spawn(move || {
        // What failed is not tried again before it changes.
        let mut failed = vec![None; app.models().len()];
        while stop.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
            for (served, failed) in app.models().iter().zip(&mut failed) {
                look(&app, served, failed);
            }
        }
    })?;
    Ok(Watch(sender))
}

fn look(app: &App, served: &Served, failed: &mut Option<String>) {
    let digest = match model::current_digest(&served.source.folder) {
        Ok(digest) => digest,
        Err(error) => {
            tracing::warn!(model = served.name, %error, "can't see whether there is a new version");
            return;
        }
    };
    let is_known = served.current().is_some_and(|version| version.digest == digest);
    if is_known || failed.as_ref() == Some(&digest) {
        return;
    }
    match app.load_one(served) {
        Ok(()) => app.metrics.swapped(),
        Err(fault) => {
            tracing::error!(model = served.name, "the new version can't be served, the old one stays: {fault}");
            *failed = Some(digest);
        }
    }
}
