//! `trainer serve`: answers requests with trained models, by the Open Inference Protocol and with plain images.
//!
//! ```text
//!                ┌─► rest ─┐                 ┌─ models   each by name, in its newest version ◄─ watch
//!  connections ──┤         ├─► protocol ─► app             │
//!                └─► grpc ─┘                 └─ engine ◄───┘  decode, gather, compute
//! ```
//!
//! It runs in a pod as the operator's assignment says, or by hand as its command line says ([`settings`]). It computes on a
//! GPU if there is one that works ([`device`]). When it is told to stop it answers what it has taken in, and ends with 0.

mod app;
mod aside;
mod body;
mod coding;
mod connections;
mod device;
mod engine;
mod error;
mod grpc;
mod metrics;
mod models;
mod protocol;
mod rest;
mod room;
mod settings;
mod statistics;
#[cfg(any(test, fuzzing))]
pub(crate) mod strangers;
mod token;
mod watch;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crds::contract::Cause;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch as state};
use tokio::time::timeout;

use self::app::App;
use self::connections::{Incoming, Patience, Protocol};
use self::engine::Engine;
use self::grpc::Health;
use self::metrics::Metrics;
use self::settings::Settings;
use self::token::Token;
use crate::data::default_threads;
use crate::fault::Fault;
use crate::torch::give_back_memory;

pub(crate) use settings::Options;

/// Threads that read requests and write answers; what takes time is done by others.
const THREADS: usize = 2;
/// What a machine without OpenMP's own setting is given.
const OMP_NUM_THREADS: &str = "OMP_NUM_THREADS";
/// How often the kernel is given back what is free. The next batch takes most of it up again: more often would cost what is saved by
/// keeping it.
const GIVE_BACK: Duration = Duration::from_secs(10);
/// How long threads may take to end after the last answer.
const END: Duration = Duration::from_secs(2);

/// Serves until it is told to stop.
///
/// # Errors
/// What keeps it from serving: settings, a model, a port, a GPU that fails.
pub(crate) fn run(options: &Options) -> Result<i32, Fault> {
    let settings = Settings::new(options, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    let token = settings.token_file.as_deref().map(Token::read).transpose()?;
    let chosen = device::choose(settings.device, settings.precision)?;
    if std::env::var_os(OMP_NUM_THREADS).is_none() {
        // Unlike OpenMP, this knows of a container's share of the CPUs.
        tch::set_num_threads(default_threads(1) as i32);
    }
    let (broken, mut breaks) = mpsc::unbounded_channel();
    let metrics = Arc::new(Metrics::default());
    let tell = move |fault| {
        // Nobody listens only when the server ends anyway.
        let _ = broken.send(fault);
    };
    let engine = Engine::start(default_threads(1), settings.limits.max_pixels.into(), Arc::clone(&metrics), tell)
        .map_err(|error| threads(&error))?;
    let app = Arc::new(App::new(settings, token, chosen, engine, metrics));
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("serve")
        .enable_all()
        .build()
        .map_err(|error| threads(&error))?;
    let served = runtime.block_on(serve(&app, &mut breaks));
    runtime.shutdown_timeout(END);
    served.map(|()| 0)
}

fn threads(error: &io::Error) -> Fault {
    Fault::new(Cause::HostMemory, format!("can't start threads: {error}"))
        .hint("raise the limits of memory and of processes")
}

/// Listens, loads, answers, and ends in order.
async fn serve(app: &Arc<App>, breaks: &mut mpsc::UnboundedReceiver<Fault>) -> Result<(), Fault> {
    // The handlers come before the first request: a signal that arrives in between must not be lost.
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let settings = &app.settings;
    let rest = connections::bind(settings.address, settings.port).await?;
    let grpc = connections::bind(settings.address, settings.grpc_port).await?;
    let address = |listener: &TcpListener| listener.local_addr().map_err(|error| Fault::io("tell the port", error));
    tracing::info!("gRPC is at {}", address(&grpc)?);
    tracing::info!("REST is at http://{}", address(&rest)?);
    let (stop, stopped) = state::channel(false);
    let health = Health::new().await;
    let silence = settings.header_timeout;
    // Long enough for a request that comes late, and for its answer.
    let end = silence + Duration::from_secs(settings.limits.timeout_seconds.into());
    let answer = |listener, router, protocol| {
        let incoming = Incoming::new(listener, settings.max_connections, stopped.clone());
        tokio::spawn(connections::serve(incoming, router, protocol, Patience { silence, end }))
    };
    let mut rest = answer(rest, rest::router(app), Protocol::Http1);
    let mut grpc =
        answer(grpc, grpc::router(app, &health, stopped.clone()), Protocol::Http2 { ages: connections::AGES });

    let _memory = tokio::spawn(async {
        loop {
            tokio::time::sleep(GIVE_BACK).await;
            // It can't fail; and where it panics, the panic hook has told.
            let _ = tokio::task::spawn_blocking(give_back_memory).await;
        }
    });
    let loader = Arc::clone(app);
    let loading = tokio::task::spawn_blocking(move || loader.load());
    let ready = async {
        loading.await.unwrap_or_else(|error| Err(Fault::new(Cause::Bug, format!("loading broke off: {error}"))))?;
        health.tell(true).await;
        let chosen = app.chosen();
        tracing::info!(device = chosen.name(), reason = chosen.reason, "ready");
        settings.watch.map(|period| watch::start(app, period)).transpose().map_err(|error| threads(&error))
    };
    let run = async {
        let _watch = ready.await?;
        tokio::select! {
            fault = breaks.recv() => fault.map_or(Ok(()), Err),
            () = health.follow(app) => Ok(()),
        }
    };
    tokio::select! {
        ended = run => ended?,
        _ = terminate.recv() => tracing::info!("told to stop: what was taken in is still answered"),
        _ = interrupt.recv() => tracing::info!("interrupted: what was taken in is still answered"),
    }

    app.stop();
    health.tell(false).await;
    let end = async {
        tokio::time::sleep(settings.drain).await;
        stop.send_replace(true);
        health.clone().end().await;
        // A panic of a task has been told by the panic hook.
        let _ = tokio::join!(&mut rest, &mut grpc);
    };
    if timeout(settings.stop_within, end).await.is_err() {
        tracing::warn!("some requests were not answered in {} seconds", settings.stop_within.as_secs());
    }
    tracing::info!("stopped");
    Ok(())
}

fn handler(kind: SignalKind) -> Result<Signal, Fault> {
    signal(kind).map_err(|error| Fault::new(Cause::Bug, format!("can't listen to signals: {error}")))
}
