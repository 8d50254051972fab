//! Lives of jobs and endpoints with an operator that dies at each of its writes: after the write took effect and before the answer came
//! back, which is also before the next one. Whatever the write, the end is the one of a life without a crash, and what the API
//! server remembers of the life keeps what is promised of every life.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::FutureExt;
use futures::stream::{self, StreamExt};
use http::{Method, Request};
use kube::client::Body;
use tokio::sync::Notify;

use crate::chronicle::Chronicle;
use crate::plays::{End, PLAYS, Play};
use crate::wire::Fate;
use crate::yard::Yard;

/// Lives that are lived at the same time: they wait more than they work.
const AT_ONCE: usize = 16;
/// Events come after the status and change nothing: the last ones may come after the end was seen.
const LAST_WORDS: i64 = 3;

/// Every write that the operator makes, by its verb and its resource.
const SITES: [&str; 16] = [
    "POST pods",
    "DELETE pods",
    "POST services",
    "DELETE services",
    "POST poddisruptionbudgets",
    "DELETE poddisruptionbudgets",
    "PATCH trainingjobs/status",
    "PATCH scoringjobs/status",
    "POST events",
    "DELETE trainingjobs",
    "PATCH services",
    "PATCH poddisruptionbudgets",
    "PATCH deployments",
    "PATCH horizontalpodautoscalers",
    "DELETE horizontalpodautoscalers",
    "PATCH modelendpoints/status",
];

/// When an operator dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Death {
    /// Its first write is never sent.
    AtOnce,
    /// The write of this number, from 0, took effect, and it never learns of it.
    After(i64),
    /// The same of the first write of this kind.
    AfterFirst(&'static str),
    /// Never.
    Never,
}

/// What lets an operator die: once it has burnt through, nothing gets in or out any more.
#[derive(Clone)]
struct Fuse(Arc<State>);

struct State {
    death: Death,
    writes: AtomicI64,
    /// The kinds of its writes.
    kinds: Mutex<BTreeSet<String>>,
    is_blown: AtomicBool,
    blown: Notify,
    /// The write at which it died.
    site: Mutex<Option<String>>,
}

impl Fuse {
    fn new(death: Death) -> Fuse {
        let (writes, is_blown, blown) = (AtomicI64::new(0), AtomicBool::new(false), Notify::new());
        let (kinds, site) = (Mutex::default(), Mutex::default());
        Fuse(Arc::new(State { death, writes, kinds, is_blown, blown, site }))
    }

    fn is_blown(&self) -> bool {
        self.0.is_blown.load(Ordering::SeqCst)
    }

    fn blow(&self, request: String) {
        *self.0.site.lock().unwrap() = Some(request);
        self.0.is_blown.store(true, Ordering::SeqCst);
        self.0.blown.notify_one();
    }

    fn fate(&self, request: &Request<Body>) -> Fate {
        if self.is_blown() {
            return Fate::Lost;
        }
        if request.method() == Method::GET {
            return Fate::Pass;
        }
        let number = self.0.writes.fetch_add(1, Ordering::SeqCst);
        let site = site(request);
        let is_first = self.0.kinds.lock().unwrap().insert(site.clone());
        let is_time = match self.0.death {
            Death::AtOnce => true,
            Death::After(at) => at == number,
            Death::AfterFirst(kind) => is_first && kind == site,
            Death::Never => false,
        };
        match self.0.death {
            _ if !is_time => Fate::Pass,
            Death::AtOnce => {
                self.blow(site);
                Fate::Lost
            }
            _ => {
                let fuse = self.clone();
                let never = async move {
                    fuse.blow(site);
                    std::future::pending::<()>().await;
                };
                Fate::AnsweredLate(never.boxed())
            }
        }
    }
}

/// A write by its verb and its resource, as in `PATCH trainingjobs/status`.
fn site(request: &Request<Body>) -> String {
    let path = request.uri().path();
    let of_namespace: Vec<&str> = path.split('/').skip_while(|part| *part != "namespaces").skip(2).collect();
    let resource = match of_namespace.as_slice() {
        [resource, _, below] => format!("{resource}/{below}"),
        [resource, ..] => (*resource).to_owned(),
        [] => path.to_owned(),
    };
    format!("{} {resource}", request.method())
}

/// Says which life it was when one panics.
struct Note(&'static str, Death);

impl Drop for Note {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("that was the life {:?} with the death {:?}", self.0, self.1);
        }
    }
}

/// What came of a life.
struct Life {
    /// Writes of the operator that was to die, and their kinds.
    writes: i64,
    kinds: BTreeSet<String>,
    /// The write at which it died.
    died_at: Option<String>,
    end: End,
}

/// Lives a life whose operator dies once.
async fn live(play: &Play, death: Death) -> Life {
    let _note = Note(play.name, death);
    let fuse = Fuse::new(death);
    let mut yard = Yard::idle(play.name, play.nodes).await;
    let chronicle = Chronicle::begin(&yard).await;
    let fused = fuse.clone();
    yard.start_operator_through(move |request| fused.fate(request));
    let operator = yard.take_operator();
    let settings = yard.settings();
    let client = yard.namespace.client();
    let state = fuse.0.clone();
    // The next operator starts when the first one is dead.
    let mut successor = tokio::spawn(async move {
        state.blown.notified().await;
        operator.abort();
        operator::cluster::run(client, settings, Box::pin(std::future::pending())).await
    });
    let end = tokio::select! {
        end = (play.act)(&yard) => end,
        end = &mut successor => panic!("the operator ended: {end:?}"),
    };
    chronicle.keeps_what_was_promised(&yard).await;
    successor.abort();
    yard.leave();
    let died_at = fuse.0.site.lock().unwrap().clone();
    let kinds = fuse.0.kinds.lock().unwrap().clone();
    Life { writes: fuse.0.writes.load(Ordering::SeqCst), kinds, died_at, end }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_life_survives_a_crash_at_every_write_and_every_kind_of_write_is_died_at() {
    let sites = die_at_every_write(&PLAYS).await;
    let missed: Vec<&str> = SITES.into_iter().filter(|site| !sites.contains(*site)).collect();
    assert!(missed.is_empty(), "{missed:?} were never died at; {sites:?} were");
}

/// Lives each life once calmly, once for each write with an operator that dies there, and once more for each kind of write, since
/// the last writes of a life vary in number; returns the kinds of writes died at.
async fn die_at_every_write(plays: &[Play]) -> BTreeSet<String> {
    // The garbage collector hears of new kinds twice a minute. Until then what is left of a deleted job keeps its names, and each try
    // to take one counts as a write of a life that has none of it later.
    for play in plays.iter().filter(|play| play.name == "followed") {
        live(play, Death::Never).await;
    }
    let calm = stream::iter(plays).map(|play| live(play, Death::Never)).buffered(AT_ONCE);
    let calm: Vec<Life> = calm.collect().await;
    let deaths = plays.iter().zip(&calm).flat_map(|(play, calm)| {
        let after = (0..calm.writes).map(Death::After);
        [Death::AtOnce].into_iter().chain(after).map(move |death| (play, calm, death))
    });
    let of_kinds = SITES.into_iter().filter_map(|kind| {
        let (play, calm) = plays.iter().zip(&calm).find(|(_, calm)| calm.kinds.contains(kind))?;
        Some((play, calm, Death::AfterFirst(kind)))
    });
    let deaths: Vec<_> = deaths.chain(of_kinds).collect();
    let mut lives = stream::iter(&deaths)
        .map(|(play, calm, death)| async move { (play, calm, death, live(play, *death).await) })
        .buffer_unordered(AT_ONCE);
    let (mut sites, mut outlived) = (BTreeSet::new(), BTreeMap::<&str, usize>::new());
    while let Some((play, calm, death, life)) = lives.next().await {
        // Where things happen in another order, a life may take a write less.
        let Some(died_at) = life.died_at else {
            let is_last_word = matches!(death, Death::After(at) if *at >= calm.writes - LAST_WORDS);
            if !is_last_word {
                *outlived.entry(play.name).or_default() += 1;
            }
            continue;
        };
        assert_eq!(
            life.end, calm.end,
            "{}: the operator died {death:?} of {} writes, {died_at}",
            play.name, calm.writes
        );
        sites.insert(died_at);
    }
    let writes: BTreeMap<&str, i64> = plays.iter().zip(&calm).map(|(play, calm)| (play.name, calm.writes)).collect();
    assert!(
        outlived.values().sum::<usize>() * 20 <= deaths.len(),
        "of {} deaths these came after the end: {outlived:?}; calm lives wrote {writes:?} times",
        deaths.len()
    );
    sites
}
