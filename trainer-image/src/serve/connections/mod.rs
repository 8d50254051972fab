//! Connections of REST: a bounded number, each with a bounded time to say what it wants, and an end in which those that are
//! being answered are answered.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use crds::contract::Cause;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::fault::Fault;

/// How long to wait after a connection could not be taken, for lack of file descriptors say.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens at a port of an address, or of every address of this machine.
///
/// # Errors
/// The port is taken, or the address is none of this machine's.
pub(super) async fn bind(address: Option<IpAddr>, port: u16) -> Result<TcpListener, Fault> {
    let bind = async |address: IpAddr| TcpListener::bind(SocketAddr::new(address, port)).await;
    let bound = match address {
        Some(address) => bind(address).await,
        // IPv6 takes IPv4 in as well. A machine without IPv6 refuses it.
        None => match bind(IpAddr::V6(Ipv6Addr::UNSPECIFIED)).await {
            Err(error) if error.kind() != ErrorKind::AddrInUse => bind(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).await,
            other => other,
        },
    };
    bound.map_err(|error| {
        Fault::new(Cause::BadSpec, format!("can't listen at port {port}"))
            .source(error)
            .hint("another program may have the port: choose one by --port and --grpc-port")
    })
}

/// Connections that come in, no more at a time than allowed. It ends when `stop` becomes true.
pub(super) struct Incoming {
    listener: TcpListener,
    places: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl Incoming {
    pub(super) fn new(listener: TcpListener, most: usize, stop: watch::Receiver<bool>) -> Incoming {
        Incoming { listener, places: Arc::new(Semaphore::new(most)), stop }
    }

    /// Waits for the request to stop.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + use<> {
        let mut stop = self.stop.clone();
        async move {
            // An error means that whoever could say stop is gone.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    /// The next connection and its place; none at the end.
    pub(super) async fn next(&mut self) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let (listener, places) = (&self.listener, &self.places);
        let next = async {
            let place = Arc::clone(places).acquire_owned().await.ok()?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        // Answers are small, and whoever asks waits for them. It fails where the client has left already.
                        let _ = stream.set_nodelay(true);
                        return Some((stream, place));
                    }
                    Err(error) => pause(&error).await,
                }
            }
        };
        tokio::select! {
            next = next => next,
            // An error means that whoever could say stop is gone.
            _ = self.stop.wait_for(|stop| *stop) => None,
        }
    }
}

async fn pause(error: &io::Error) {
    // A client that left before its turn is no trouble of ours.
    if !matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) {
        tracing::warn!(%error, "a connection could not be taken");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Serves connections until it is told to stop, then finishes what is being answered.
pub(super) async fn serve(mut incoming: Incoming, router: Router, header_timeout: Duration) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(header_timeout);
    let graceful = GracefulShutdown::new();
    while let Some((stream, place)) = incoming.next().await {
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A client that breaks off, or is too slow, is no error of ours.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke off");
            }
            drop(place);
        });
    }
    drop(incoming);
    graceful.shutdown().await;
}
