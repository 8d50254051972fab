//! Lives of jobs with an operator that dies at each of its writes: before the write reaches the API server, and after it
//! did but before the answer came back. Whatever the write, the end is the one of a life without a crash.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll};

use crds::contract::Cause;
use crds::status::{AttemptRecord, Phase};
use crds::{ScoringJob, TrainingJob};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use http::{Method, Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tests::cluster::Cluster;
use tokio::sync::Notify;
use tower::{BoxError, Layer, Service};

use crate::yard::{Yard, said, scored, trained};

/// Lives that are lived at the same time.
const AT_ONCE: usize = 6;

/// When an operator dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// Its write is never sent.
    Before(i64),
    /// Its write took effect, and it never learns of it.
    After(i64),
    /// Never.
    Never,
}

/// What lets an operator die: once it has burnt through, nothing gets in or out any more.
#[derive(Clone)]
struct Fuse(Arc<State>);

struct State {
    death: Death,
    writes: AtomicI64,
    is_blown: AtomicBool,
    blown: Notify,
}

impl Fuse {
    fn new(death: Death) -> Fuse {
        let (writes, is_blown, blown) = (AtomicI64::new(0), AtomicBool::new(false), Notify::new());
        Fuse(Arc::new(State { death, writes, is_blown, blown }))
    }

    fn blow(&self) {
        self.0.is_blown.store(true, Ordering::SeqCst);
        self.0.blown.notify_one();
    }

    async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(Cluster::shared().await.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        ClientBuilder::try_from(config).unwrap().with_layer(self).build()
    }
}

impl<S> Layer<S> for Fuse {
    type Service = Fused<S>;
    fn layer(&self, inner: S) -> Fused<S> {
        Fused { inner, fuse: self.clone() }
    }
}

struct Fused<S> {
    inner: S,
    fuse: Fuse,
}

impl<S, B> Service<Request<Body>> for Fused<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.fuse.0.is_blown.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        if request.method() == Method::GET {
            return Box::pin(self.inner.call(request));
        }
        let number = self.fuse.0.writes.fetch_add(1, Ordering::SeqCst);
        match self.fuse.0.death {
            Death::Before(at) if at == number => {
                self.fuse.blow();
                Box::pin(std::future::pending())
            }
            Death::After(at) if at == number => {
                let (fuse, answer) = (self.fuse.clone(), self.inner.call(request));
                Box::pin(async move {
                    // Whatever the answer is, it comes too late.
                    let _ = answer.await;
                    fuse.blow();
                    std::future::pending().await
                })
            }
            _ => Box::pin(self.inner.call(request)),
        }
    }
}

/// What is the same at the end of every life.
#[derive(Clone, Debug, PartialEq)]
struct End {
    phase: Phase,
    counts: (u32, u32, u32),
    causes: Vec<(u32, Cause)>,
    result: String,
    pods: BTreeSet<String>,
}

fn causes(attempts: &[AttemptRecord]) -> Vec<(u32, Cause)> {
    let mut causes: Vec<_> = attempts.iter().map(|attempt| (attempt.number, attempt.cause)).collect();
    causes.sort();
    causes
}

async fn training_end(yard: &Yard, phase: Phase) -> End {
    let status = yard.phase("a", phase).await;
    let live: BTreeSet<String> = yard.pods().await;
    End {
        phase,
        counts: (status.attempt, status.restarts, status.failures),
        causes: causes(&status.attempts),
        result: json!(yard.model("a").await).to_string(),
        pods: live,
    }
}

/// A gang of two loses one, starts again and trains its model.
async fn restarted(yard: &Yard) -> End {
    yard.train("a", json!({"infrastructure": {"nodes": 2}})).await;
    let pods = yard.namespace.pods();
    pods.running("a-t1-0").await;
    pods.finish("a-t1-1", 162, &said("Storage", "the volume is gone")).await;
    pods.running("a-t2-1").await;
    pods.finish("a-t2-1", 0, "").await;
    pods.finish("a-t2-0", 0, &trained()).await;
    training_end(yard, Phase::Succeeded).await
}

/// A job is suspended while it runs, goes on, and meets data that can't be used.
async fn suspended(yard: &Yard) -> End {
    yard.train("a", json!({})).await;
    yard.namespace.pods().running("a-t1-0").await;
    yard.phase("a", Phase::Running).await;
    yard.change::<TrainingJob>("a", json!({"runPolicy": {"suspend": true}})).await;
    yard.namespace.pods().gone("a-t1-0").await;
    yard.phase("a", Phase::Suspended).await;
    yard.change::<TrainingJob>("a", json!({"runPolicy": {"suspend": false}})).await;
    yard.namespace.pods().finish("a-t2-0", 65, &said("BadData", "cat/7.jpg is truncated")).await;
    training_end(yard, Phase::Failed).await
}

/// Three shards, one at a time, of which one is tried twice.
async fn shards(yard: &Yard) -> End {
    yard.score("a", json!({"shards": 3, "parallelism": 1})).await;
    let pods = yard.namespace.pods();
    pods.finish("a-s1-0", 0, &scored(10)).await;
    pods.finish("a-s1-1", 161, "").await;
    // While the second shard waits for its restart, the third has its place; a crash may change their order.
    let (second, third) = (scored(20), scored(30));
    futures::join!(pods.finish("a-s2-1", 0, &second), pods.finish("a-s1-2", 0, &third));
    let done = |job: Option<&ScoringJob>| {
        job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.job.phase.is_terminal())
    };
    let job: Option<ScoringJob> = yard.namespace.wait("a", done).await;
    let status = job.and_then(|job| job.status).expect("a status");
    End {
        phase: status.job.phase,
        counts: (status.job.attempt, status.job.restarts, status.job.failures),
        causes: causes(&status.job.attempts),
        result: json!(status.rows).to_string(),
        pods: yard.pods().await,
    }
}

/// Says which death it was when a life panics.
struct Note(Death);

impl Drop for Note {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("that was the life with the death {:?}", self.0);
        }
    }
}

/// Lives a life whose operator dies once; tells how many writes it made, and the end.
async fn live(name: &str, death: Death, play: impl AsyncFn(&Yard) -> End) -> (i64, End) {
    let _note = Note(death);
    let fuse = Fuse::new(death);
    let mut yard = Yard::idle(name, &["cpu"]).await;
    yard.start_operator_with(fuse.client().await);
    let operator = yard.take_operator();
    let settings = yard.settings();
    let client = yard.namespace.client();
    let state = fuse.0.clone();
    // The next operator starts when the first one is dead.
    let successor = async move {
        state.blown.notified().await;
        operator.abort();
        operator::cluster::run(client, settings, Box::pin(std::future::pending())).await
    };
    let end = tokio::select! {
        end = play(&yard) => end,
        end = successor => panic!("the operator ended: {end:?}"),
    };
    let survived = !matches!(death, Death::Never) && !fuse.0.is_blown.load(Ordering::SeqCst);
    assert!(!survived, "{death:?} came after the end");
    (fuse.0.writes.load(Ordering::SeqCst), end)
}

/// Lives a life once without a crash, then with a crash at each write, either way.
async fn every_crash(name: &str, play: impl AsyncFn(&Yard) -> End) {
    let (writes, calm) = live(name, Death::Never, &play).await;
    assert!(writes > 5, "{writes} writes");
    // Events come after the status and change nothing: the last ones may come after the end was seen.
    let deaths = (0..writes - 3).flat_map(|number| [Death::Before(number), Death::After(number)]);
    let ends = stream::iter(deaths).map(|death| {
        let play = &play;
        async move { (death, live(name, death, play).await.1) }
    });
    let ends: Vec<(Death, End)> = ends.buffer_unordered(AT_ONCE).collect().await;
    assert!(ends.len() > 10);
    for (death, end) in ends {
        assert_eq!(end, calm, "the operator died {death:?} of {writes} writes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gang_that_restarts_survives_a_crash_at_every_write() {
    every_crash("crash-gang", restarted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_suspended_survives_a_crash_at_every_write() {
    every_crash("crash-suspend", suspended).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_survive_a_crash_at_every_write() {
    every_crash("crash-shards", shards).await;
}
