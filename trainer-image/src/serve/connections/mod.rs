//! Connections: a bounded number, each with a bounded time to say what it wants and to take what it is answered with, and an
//! end in which those that are being answered are answered.
//!
//! ```text
//!  accept ─► places: one for each, or one that waits makes room ─► stream: cuts off who is too slow ─► hyper ─► router
//!                       ▲                                             │                                   │
//!                       └──── what each connection waits for ─────────┴───────────── request ─────────────┘
//! ```

mod places;
mod request;
mod stream;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use crds::contract::Cause;
use hyper::body::Incoming as Received;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use self::places::{Places, Seat, Tenant};
use self::request::Answer;
use self::stream::Stream;
use crate::fault::Fault;

/// How long to wait after a connection could not be taken, for lack of file descriptors say.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes with which HTTP/2 begins (RFC 9113, 3.4): from then on the protocol's own keep-alive notices who is gone.
const PREFACE: usize = 24;
/// How often a silent client of HTTP/2 is asked whether it is still there, and how long it has to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Requests at a time of one connection of HTTP/2.
const STREAMS: u32 = 32;
/// How old a connection of HTTP/2 gets, so that servers that are new get their share of those who ask: some time in between, lest
/// all come again at once.
pub(super) const AGES: Range<Duration> = Duration::from_secs(300)..Duration::from_secs(600);
/// A stream of the standard health service goes on for ever. It holds no place: its client asks anew, here or elsewhere.
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// What a connection speaks.
#[derive(Clone, Debug)]
pub(super) enum Protocol {
    Http1,
    Http2 {
        /// How old a connection gets.
        ages: Range<Duration>,
    },
}

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// To send the head of a request, or the first bytes of HTTP/2; and to take anything of what is written.
    pub(super) silence: Duration,
    /// To end what is under way when the connection is to end.
    pub(super) end: Duration,
}

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
    places: Arc<Places>,
    stop: watch::Receiver<bool>,
}

impl Incoming {
    pub(super) fn new(listener: TcpListener, most: usize, stop: watch::Receiver<bool>) -> Incoming {
        Incoming { listener, places: Places::new(most), stop }
    }

    /// The next connection and its place; none at the end.
    async fn next(&mut self) -> Option<(TcpStream, Seat)> {
        let (listener, places) = (&self.listener, &self.places);
        let next = async {
            loop {
                match listener.accept().await {
                    Ok((socket, _)) => {
                        // Answers are small, and whoever asks waits for them. It fails where the client has left already.
                        let _ = socket.set_nodelay(true);
                        return Some((socket, places.take().await?));
                    }
                    Err(error) => pause(&error).await,
                }
            }
        };
        tokio::select! {
            next = next => next,
            () = stopped(&mut self.stop) => None,
        }
    }
}

pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could say stop is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn pause(error: &io::Error) {
    // A client that left before its turn is no trouble of ours.
    if !matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) {
        tracing::warn!(%error, "a connection could not be taken");
        sleep(PAUSE).await;
    }
}

/// Serves connections until it is told to stop, then finishes what is being answered.
pub(super) async fn serve(mut incoming: Incoming, router: Router, protocol: Protocol, patience: Patience) {
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(patience.silence);
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .keep_alive_timeout(KEEP_ALIVE);
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    while let Some((socket, seat)) = incoming.next().await {
        let (tenant, silence) = (seat.tenant(), patience.silence);
        let service = service(router.clone(), Arc::clone(tenant));
        let (stop, alive) = (incoming.stop.clone(), alive.clone());
        match &protocol {
            Protocol::Http1 => {
                let stream = TokioIo::new(Stream::new(socket, tenant, silence, 0));
                let connection = http1.serve_connection(stream, service);
                tokio::spawn(async move {
                    keep(connection, seat, Duration::MAX, patience.end, stop).await;
                    drop(alive);
                });
            }
            Protocol::Http2 { ages } => {
                let stream = TokioIo::new(Stream::new(socket, tenant, silence, PREFACE));
                let connection = http2.serve_connection(stream, service);
                let age = within(ages);
                tokio::spawn(async move {
                    keep(connection, seat, age, patience.end, stop).await;
                    drop(alive);
                });
            }
        }
    }
    drop((incoming, alive));
    // Nothing is ever sent.
    let _ = all_gone.recv().await;
}

/// Some time of a range.
fn within(range: &Range<Duration>) -> Duration {
    let part = RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64;
    range.start + (range.end - range.start).mul_f64(part)
}

/// Answers one connection until it ends, gets too old, or has to make room.
async fn keep<C: GracefulConnection>(
    connection: C,
    seat: Seat,
    age: Duration,
    end: Duration,
    mut stop: watch::Receiver<bool>,
) where
    C::Error: std::fmt::Display,
{
    let mut connection = Box::pin(connection);
    let served = {
        let mut evicted = pin!(seat.tenant().evicted());
        let served = tokio::select! {
            served = connection.as_mut() => Some(served),
            () = &mut evicted => Some(Ok(())),
            () = stopped(&mut stop) => None,
            () = sleep(age) => None,
        };
        match served {
            Some(served) => served,
            None => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    served = connection.as_mut() => served,
                    () = evicted => Ok(()),
                    () = sleep(end) => Ok(()),
                }
            }
        }
    };
    // A client that breaks off, or is too slow, is no error of ours.
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
    // The socket is closed before another one takes its place.
    drop(connection);
    drop(seat);
}

/// What answers the requests of one connection.
fn service(
    router: Router,
    tenant: Arc<Tenant>,
) -> impl Service<
    Request<Received>,
    Response = Response<Answer<Body>>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Answer<Body>>, Infallible>> + Send + 'static,
> {
    let router = TowerToHyperService::new(router);
    service_fn(move |request: Request<Received>| {
        let is_free = request.uri().path() == WATCH;
        let (head, body) = request.into_parts();
        let (body, answer) = if is_free { request::free(body) } else { request::owed(&tenant, body) };
        let answered = router.call(Request::from_parts(head, body));
        async move { answered.await.map(|response| response.map(|body| answer.with(body))) }
    })
}
