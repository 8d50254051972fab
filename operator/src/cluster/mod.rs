//! The operator proper: jobs as pods of a cluster.
//!
//! ```text
//!  watches ─► pods, nodes, jobs ─► reconcile: observe ─► decide ─► act ─► API server
//!                 (caches)            ▲
//!                             progress (polls of the leaders)
//! ```
//!
//! Endpoints have a look of their own (`endpoint`), beside that at jobs.
//!
//! Of several operators one leads and writes: the one that holds the lease ([`Leadership`]).

mod act;
mod ask;
mod awaited;
mod beside;
mod clock;
mod context;
mod endpoint;
mod health;
mod hearsay;
mod kind;
mod lanes;
mod lease;
mod news;
mod nodes;
mod place;
mod pods;
mod progress;
mod reconcile;
mod telemetry;
mod wakes;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver};

pub use self::ask::{Judging, nodes, why};
use self::clock::Clock;
use self::context::Context;
use self::endpoint::Endpoints;
use self::health::{Health, Part};
use self::hearsay::Beginnings;
use self::kind::Controlled;
use self::lanes::Lanes;
pub(crate) use self::lease::NAME as LEASE;
use self::lease::{Candidate, Fence};
pub use self::lease::{Leadership, identity};
use self::news::{News, Told};
use self::nodes::Nodes;
use self::pods::{Owner, Pods};
use self::progress::Polls;
use self::telemetry::Telemetry;
use self::wakes::Wakes;
use crate::observe::Backoff;
use crate::placement::Catalogue;

/// Time for the events that are still to be published when the operator is told to stop.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Jobs of one kind that are looked at at the same time.
const CONCURRENCY: u16 = 64;

/// How the operator runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The one namespace to work in; all of them if absent.
    pub namespace: Option<String>,
    /// Whether nodes may be read. If not, the gate is written from the driver table alone.
    pub reads_nodes: bool,
    /// Whether an autoscaler adds the nodes that waiting pods need.
    pub autoscaled: bool,
    /// The images of our trainer.
    pub catalogue: Catalogue,
    /// Waiting time before a restart.
    pub backoff: Backoff,
    /// Time between two questions for the progress of a gang.
    pub poll_every: Duration,
    /// The lease that is held while the operator writes. Without one, whoever starts it sees to it that it is the only one.
    pub leadership: Option<Leadership>,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    pub listen: SocketAddr,
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// There is no way to a cluster.
    #[error("can't find a cluster: {0}. Set KUBECONFIG, or run in a pod with a service account")]
    Config(#[from] kube::config::InferConfigError),
    /// The client can't be made, or was refused.
    #[error("the cluster's API server: {0}")]
    Client(#[from] kube::Error),
    /// There is no such job.
    #[error("there is no job {job} in the namespace {namespace}: name another one by -n")]
    NoJob {
        /// The job, as it was asked for.
        job: String,
        /// The namespace.
        namespace: String,
    },
    /// The figures can't be served.
    #[error("can't serve on {address}: {source}. Give another address, such as TRAINYARD_LISTEN=0.0.0.0:8080")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another operator leads, or may lead for all that is known.
    #[error("this operator has lost its lease, and ends before it does harm")]
    NotLeading,
    /// A part of the operator has ended by itself: better no operator than half of one.
    #[error("{0} has ended: the operator ends with it")]
    Lost(&'static str),
}

/// A client for the cluster that KUBECONFIG names, or that this pod is in. It waits on the server's word alone (429 and
/// Retry-After), not on a limit of its own.
///
/// # Errors
/// There is no cluster, or what is known of it can't be used.
pub async fn connect() -> Result<Client, OperatorError> {
    let config = kube::Config::infer().await?;
    Ok(Client::try_from(config)?)
}

/// Runs the operator until `stop` ends: then it finishes what it is doing, and gives its lease back.
///
/// # Errors
/// [`OperatorError`].
pub async fn run(client: Client, settings: Settings, stop: BoxFuture<'static, ()>) -> Result<(), OperatorError> {
    let stop = stop.shared();
    let (moved, moves) = mpsc::unbounded_channel::<Owner>();
    let (trainings, training_writer) = reflector::store::<TrainingJob>();
    let (scorings, scoring_writer) = reflector::store::<ScoringJob>();
    let (endpoints, endpoint_writer) = reflector::store::<ModelEndpoint>();
    let (news, to_tell) = News::new();
    let context = Arc::new(Context {
        news,
        lanes: Lanes::default(),
        fence: settings.leadership.as_ref().map_or_else(Fence::open, |_| Fence::closed()),
        clock: Clock::start(),
        beginnings: Beginnings::default(),
        pods: Pods::default(),
        nodes: settings.reads_nodes.then(Nodes::default),
        polls: Polls::new(settings.poll_every, moved.clone()),
        endpoints: Endpoints::new(endpoints.clone(), Polls::new(settings.poll_every, moved)),
        trainings: trainings.clone(),
        scorings: scorings.clone(),
        telemetry: Arc::new(Telemetry::default()),
        jobs: std::sync::Mutex::default(),
        unplaced: std::sync::Mutex::default(),
        health: Health::new(Instant::now(), settings.leadership.as_ref().map(Leadership::duration)),
        settings: settings.clone(),
        client: client.clone(),
    });
    let (counting, living, seeing) = (Arc::clone(&context), Arc::clone(&context), Arc::clone(&context));
    let served = telemetry::serve(
        settings.listen,
        move || counting.figures(),
        move || living.health.liveness(Instant::now()),
        move || seeing.readiness(),
    );
    // On the heap: it holds both controllers, and stacks are small.
    let stores = Stores {
        trainings: (trainings, training_writer),
        scorings: (scorings, scoring_writer),
        endpoints: (endpoints, endpoint_writer),
    };
    let work = Box::pin(work(&context, stores, moves, to_tell, stop.clone()));
    let lead = async {
        let Some(leadership) = &settings.leadership else { return work.await };
        let mut candidate = Candidate::new(&client, leadership, &context.fence, &context.health);
        tokio::select! {
            () = candidate.lead() => {}
            () = stop => return Ok(()),
        }
        let end = tokio::select! {
            end = work => end,
            () = candidate.keep() => Err(OperatorError::NotLeading),
        };
        context.health.end(Part::Lease);
        candidate.release().await;
        end
    };
    tokio::select! {
        end = lead => end,
        served = served => {
            served.map_err(|source| OperatorError::Listen { address: settings.listen, source })?;
            Err(OperatorError::Lost("the server of metrics"))
        }
    }
}

/// What the watches of our kinds fill.
struct Stores {
    trainings: (Store<TrainingJob>, Writer<TrainingJob>),
    scorings: (Store<ScoringJob>, Writer<ScoringJob>),
    endpoints: (Store<ModelEndpoint>, Writer<ModelEndpoint>),
}

/// Watches, decides and writes until `stop` ends and what was begun is done.
async fn work(
    context: &Arc<Context>,
    stores: Stores,
    mut moves: UnboundedReceiver<Owner>,
    to_tell: Receiver<Told>,
    stop: Shared<BoxFuture<'static, ()>>,
) -> Result<(), OperatorError> {
    let (wakes, woken) = Wakes::new();
    let controllers = async {
        tokio::try_join!(
            control(context, &wakes, stores.trainings, woken.training, stop.clone()),
            control(context, &wakes, stores.scorings, woken.scoring, stop.clone()),
            control(context, &wakes, stores.endpoints, woken.endpoint, stop.clone()),
        )
    };
    let mut telling = pin!(news::tell(context, to_tell));
    tokio::select! {
        ended = controllers => {
            ended?;
            // What was written is told, as far as there is time.
            context.news.close();
            let _ = tokio::time::timeout(LAST_WORDS, telling).await;
            Ok(())
        }
        () = context.health.beat() => Err(OperatorError::Lost("the loop")),
        () = &mut telling => Err(OperatorError::Lost("the publishing of events")),
        () = watch_pods(context, &wakes) => Err(OperatorError::Lost("the watch of pods")),
        () = watch_nodes(context, &wakes) => Err(OperatorError::Lost("the watch of nodes")),
        () = endpoint::watch(context, &wakes) => Err(OperatorError::Lost("a watch of what belongs to endpoints")),
        () = async { while let Some(owner) = moves.recv().await { wakes.wake(&owner); } } => {
            Err(OperatorError::Lost("the polling of progress"))
        }
    }
}

/// Looks at the objects of one kind whenever something of theirs has changed, until `stop` ends.
async fn control<K: Controlled>(
    context: &Arc<Context>,
    wakes: &Wakes,
    (reader, writer): (Store<K>, Writer<K>),
    woken: UnboundedReceiver<ObjectRef<K>>,
    stop: Shared<BoxFuture<'static, ()>>,
) -> Result<(), OperatorError> {
    let api = api::<K>(context);
    let newest = api.clone();
    let (forgetful, mut listed) = (Arc::clone(context), HashSet::new());
    let (knowing, waking) = (Arc::clone(context), wakes.clone());
    let jobs = watcher::watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|job: &mut K| job.meta_mut().managed_fields = None)
        .reflect(writer)
        // Once the store has it, or has let go of it: those who are woken look there, and so does a look that began before, at its end.
        .inspect(move |event| {
            forgetful.health.note(&K::plural(&()), event);
            match event {
                Ok(Event::Delete(object)) => K::forget(&forgetful, &Owner::named(object)),
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => drop(listed.insert(Owner::named(object))),
                // What the list lacks went while nobody watched.
                Ok(Event::InitDone) => {
                    let gone = K::remembered(&forgetful).into_iter().filter(|known| !listed.contains(known));
                    gone.for_each(|owner| K::forget(&forgetful, &owner));
                    listed.clear();
                }
                Ok(Event::Apply(object)) => object.awaited_by(&knowing).iter().for_each(|owner| waking.wake(owner)),
                Err(_) => {}
            }
        })
        .touched_objects();
    // The first look waits for what it rests on.
    let ready = async {
        context.beginnings.begin(context, &newest).await;
        while !K::is_ready(context) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = ready => {}
        () = stop.clone() => return Ok(()),
    }
    let filled = reader.clone();
    // A controller ends by itself only when it was told to, and not before its list is in.
    let looks = Controller::for_stream(jobs, reader)
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(wakes::gathered(woken))
        .graceful_shutdown_on(stop.clone())
        .run(K::reconcile, |job, error, context| K::after_error(&job, error, &context), Arc::clone(context))
        .for_each(|result| async move {
            match result {
                // What was woken up may be gone; and what failed was logged where it failed.
                Ok(_) | Err(controller::Error::ObjectNotFound(_) | controller::Error::ReconcilerFailed(..)) => {}
                Err(error) => tracing::warn!(%error, kind = %K::kind(&()), "the watch of jobs"),
            }
        });
    let unfilled = async {
        stop.clone().await;
        if context::is_filled(&filled) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = looks => {}
        () = unfilled => {}
    }
    stop.now_or_never().ok_or(OperatorError::Lost("a controller"))
}

async fn watch_pods(context: &Context, wakes: &Wakes) {
    let ours = watcher::Config::default().labels(crds::contract::labels::JOB);
    let events = watcher::watcher(api::<Pod>(context), ours).default_backoff();
    events
        .for_each(|event| async {
            context.health.note("pods", &event);
            match event {
                Ok(event) => {
                    let endpoints = context.endpoints.seen.servers.hear(&event);
                    endpoints.iter().for_each(|name| wakes.wake(&context.endpoints.owner(name)));
                    for owner in context.pods.hear(event) {
                        if context.is_gone(&owner) {
                            context.pods.forget_job(&owner);
                        }
                        // Even then: another job of its name may wait for the name of this pod.
                        wakes.wake(&owner);
                    }
                }
                Err(error) => tracing::warn!(%error, "the watch of pods"),
            }
        })
        .await;
}

async fn watch_nodes(context: &Context, wakes: &Wakes) {
    let Some(nodes) = &context.nodes else { return std::future::pending().await };
    let events = watcher::watcher(Api::<Node>::all(context.client.clone()), watcher::Config::default());
    events
        .default_backoff()
        .modify(|node: &mut Node| node.metadata.managed_fields = None)
        .for_each(|event| async {
            context.health.note("nodes", &event);
            match event {
                Ok(event) => {
                    let concerns = nodes.hear(event);
                    context.woken_by_nodes(concerns).iter().for_each(|owner| wakes.wake(owner));
                }
                Err(error) => tracing::warn!(%error, "the watch of nodes"),
            }
        })
        .await;
}

/// Objects of a kind where the operator works: in its namespace, or in all.
fn api<K>(context: &Context) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match &context.settings.namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    }
}
