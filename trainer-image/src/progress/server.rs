//! The small HTTP server of rank 0, on a thread of its own. It answers from a copy and never makes the training wait.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use crds::contract::{CONTRACT_VERSION, PROGRESS_PORT, Progress, env};
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;

use super::metrics;

/// Why progress can't be served. No reason to end the training.
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    /// A variable of the environment is wrong.
    #[error("{name} is {value:?}, not {what}")]
    Environment {
        /// Name of the variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        what: &'static str,
    },
    /// The port is taken, or the address is none of this machine's.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No thread or event loop could be made.
    #[error("can't start the progress server: {0}")]
    Start(#[from] io::Error),
}

/// The progress, shared with the server.
#[derive(Debug)]
pub(super) struct Shared(Mutex<Progress>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        // A panic while the lock was held can only have left some fields newer than others.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy for the outside. JSON has no way to write what is not finite.
    pub(super) fn read(&self) -> Progress {
        let mut progress = self.lock().clone();
        progress.loss = progress.loss.filter(|loss| loss.is_finite());
        progress.metric = progress.metric.filter(|metric| metric.is_finite());
        if !progress.images_per_second.is_finite() {
            progress.images_per_second = 0.0;
        }
        progress
    }
}

/// Starts servers.
#[derive(Debug)]
pub struct ProgressServer;

/// Where the training tells its progress. The server stops when it is dropped.
#[derive(Debug)]
pub struct ProgressHandle {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ProgressServer {
    /// Serves at the port and address that the environment says; nothing if the port is 0.
    ///
    /// # Errors
    /// [`ProgressError`]: tell it, and go on without.
    pub fn start(attempt: u32) -> Result<Option<ProgressHandle>, ProgressError> {
        let wrong = |name, value, what| ProgressError::Environment { name, value, what };
        let port = match std::env::var(env::PROGRESS_PORT) {
            Err(_) => PROGRESS_PORT,
            Ok(text) => text.trim().parse().map_err(|_| wrong(env::PROGRESS_PORT, text, "a port"))?,
        };
        let address = match std::env::var(env::PROGRESS_ADDR) {
            Ok(text) if !text.is_empty() => {
                Some(text.parse().map_err(|_| wrong(env::PROGRESS_ADDR, text, "an IP address"))?)
            }
            _ => None,
        };
        if port == 0 { Ok(None) } else { ProgressServer::listen(address, port, attempt).map(Some) }
    }

    /// Serves at a port (0: any free one) of an address, or of every address of this machine.
    ///
    /// # Errors
    /// [`ProgressError::Listen`] and [`ProgressError::Start`].
    pub fn listen(address: Option<IpAddr>, port: u16, attempt: u32) -> Result<ProgressHandle, ProgressError> {
        let listener = match address {
            Some(address) => bind(address, port)?,
            // IPv6 takes IPv4 in as well. A machine without IPv6 refuses it.
            None => match bind(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port) {
                Err(ProgressError::Listen { source, .. }) if source.kind() != io::ErrorKind::AddrInUse => {
                    bind(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)?
                }
                other => other?,
            },
        };
        listener.set_nonblocking(true)?;
        let progress = Progress { contract_version: CONTRACT_VERSION, attempt, ..Progress::default() };
        let shared = Arc::new(Shared(Mutex::new(Progress { stage: "Preparing".to_owned(), ..progress })));
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let app = router(Arc::clone(&shared));
        let thread = thread::Builder::new().name("progress".to_owned()).spawn(move || {
            runtime.block_on(async {
                // Dropping the runtime closes what is open: a client that dawdles can't hold the trainer up.
                tokio::select! {
                    () = serve(listener, app) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(ProgressHandle { shared, address, stop: Some(stop), thread: Some(thread) })
    }
}

fn bind(address: IpAddr, port: u16) -> Result<TcpListener, ProgressError> {
    let address = SocketAddr::new(address, port);
    TcpListener::bind(address).map_err(|source| ProgressError::Listen { address, source })
}

async fn serve(listener: TcpListener, app: Router) {
    let served = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => axum::serve(listener, app).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::warn!(%error, "progress is served no more");
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let registry = Arc::new(metrics::registry(Arc::clone(&shared)));
    Router::new()
        .route("/progress", get(async |State(shared): State<Arc<Shared>>| Json(shared.read())))
        .with_state(shared)
        .route("/metrics", get(scrape))
        .with_state(registry)
}

async fn scrape(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    match metrics::encode(&registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl ProgressHandle {
    /// Changes what is told. Cheap: a lock that is held for a copy at most.
    pub fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.shared.lock());
    }

    /// Where it is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for ProgressHandle {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have stopped by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // Afterwards the port is free.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    const LOCAL: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    /// Status line and headers, and body, of a request.
    fn get(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[test]
    fn progress_is_told_as_the_contract_says() {
        let handle = ProgressServer::listen(LOCAL, 0, 3).unwrap();
        handle.update(|progress| {
            progress.step = 12;
            progress.loss = Some(f64::NAN);
            progress.images_per_second = f64::INFINITY;
        });
        let told: Progress = serde_json::from_str(&get(handle.address(), "/progress").1).unwrap();
        let expected = Progress {
            contract_version: CONTRACT_VERSION,
            attempt: 3,
            stage: "Preparing".to_owned(),
            step: 12,
            ..Progress::default()
        };
        assert_eq!(told, expected);
        assert!(get(handle.address(), "/other").0.starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn metrics_hold_what_is_known_and_nothing_else() {
        let handle = ProgressServer::listen(LOCAL, 0, 1).unwrap();
        handle.update(|progress| {
            (progress.step, progress.total_steps, progress.epoch) = (12, 100, 2);
            (progress.loss, progress.images_per_second) = (Some(0.5), 64.25);
        });
        let (head, body) = get(handle.address(), "/metrics");
        assert!(head.to_lowercase().contains("content-type: application/openmetrics-text"), "{head}");
        let values: Vec<_> = body.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "trainyard_attempt 1.0",
            "trainyard_epoch 2.0",
            "trainyard_step 12.0",
            "trainyard_steps 100.0",
            "trainyard_loss 0.5",
            "trainyard_images_per_second 64.25",
        ];
        assert_eq!(values, expected);
        assert!(body.ends_with("# EOF\n"));
    }

    #[test]
    fn every_address_includes_ipv4() {
        let handle = ProgressServer::listen(None, 0, 1).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, handle.address().port()));
        assert!(get(address, "/progress").0.starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn a_taken_port_is_an_error_and_dropping_frees_it() {
        let first = ProgressServer::listen(LOCAL, 0, 1).unwrap();
        let address = first.address();
        let error = ProgressServer::listen(LOCAL, address.port(), 1).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("can't listen on {address}: Address already in use")),
            "{error}"
        );
        // A client that never finishes its request holds nothing up.
        let _dawdler = TcpStream::connect(address).unwrap().write_all(b"GET /pro");
        drop(first);
        drop(ProgressServer::listen(LOCAL, address.port(), 1).unwrap());
    }
}
