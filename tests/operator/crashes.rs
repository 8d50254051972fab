//! Lives of jobs with an operator that dies at each of its writes: before the write reaches the API server, and after it
//! did but before the answer came back. Whatever the write, the end is the one of a life without a crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use futures::future::FutureExt;
use futures::stream::{self, StreamExt};
use http::{Method, Request};
use kube::client::Body;
use tokio::sync::Notify;

use crate::plays::{End, restarted, shards, suspended};
use crate::wire::Fate;
use crate::yard::Yard;

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

    fn fate(&self, request: &Request<Body>) -> Fate {
        if self.0.is_blown.load(Ordering::SeqCst) {
            return Fate::Lost;
        }
        if request.method() == Method::GET {
            return Fate::Pass;
        }
        let number = self.0.writes.fetch_add(1, Ordering::SeqCst);
        match self.0.death {
            Death::Before(at) if at == number => {
                self.blow();
                Fate::Lost
            }
            Death::After(at) if at == number => {
                let fuse = self.clone();
                let never = async move {
                    fuse.blow();
                    std::future::pending::<()>().await;
                };
                Fate::AnsweredLate(never.boxed())
            }
            _ => Fate::Pass,
        }
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
    let fused = fuse.clone();
    yard.start_operator_through(move |request| fused.fate(request));
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
