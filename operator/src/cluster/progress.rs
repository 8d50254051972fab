//! Asks the leaders of running gangs how far they are, and a pod of each endpoint what it computes on: each every ten seconds at
//! a time of its own. The reconciler is woken when an answer is another one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::contract::{PROGRESS_PORT, Progress, SERVE_PORT, Serving, paths};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;

use super::pods::Owner;
use crate::observe::{Mark, progress};

/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Largest answer that is read.
const ANSWER_BYTES: usize = 64 << 10;

type Http = Client<HttpConnector, Empty<bytes::Bytes>>;

/// What a process answers when it is asked.
pub(super) trait Answer: Clone + PartialEq + DeserializeOwned + Send + 'static {
    /// Where it listens.
    const PORT: u16;
    /// What is asked for.
    const PATH: &'static str;
    /// The answer within the bounds of a status.
    fn bounded(self) -> Self;
    /// The newest checkpoint that it tells of: its attempt and its step.
    fn saved(&self) -> Option<(u32, u64)>;
}

impl Answer for Progress {
    const PORT: u16 = PROGRESS_PORT;
    const PATH: &'static str = "/progress";
    fn bounded(self) -> Progress {
        Progress::bounded(self)
    }
    fn saved(&self) -> Option<(u32, u64)> {
        self.checkpoint_step.map(|step| (self.attempt, step))
    }
}

impl Answer for Serving {
    const PORT: u16 = SERVE_PORT;
    const PATH: &'static str = paths::SERVING;
    fn bounded(self) -> Serving {
        Serving::bounded(self)
    }
    fn saved(&self) -> Option<(u32, u64)> {
        None
    }
}

/// The questions under way, and the newest answers.
pub(super) struct Polls<A> {
    every: Duration,
    http: Http,
    state: Arc<Mutex<State<A>>>,
    wake: tokio::sync::mpsc::UnboundedSender<Owner>,
}

struct State<A> {
    answers: HashMap<String, BTreeMap<u32, A>>,
    /// When the newest checkpoint of each job was first heard of, and of which attempt it is.
    saved: HashMap<String, (u32, Timestamp)>,
    asked: HashMap<(String, u32), (String, AbortHandle)>,
}

impl<A: Answer> Polls<A> {
    /// Asks every `every`; the owners of what has moved go to `wake`.
    pub(super) fn new(every: Duration, wake: tokio::sync::mpsc::UnboundedSender<Owner>) -> Polls<A> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PATIENCE));
        let http = Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(30)).build(connector);
        Polls { every, http, state: Arc::new(Mutex::new(State::new())), wake }
    }

    /// Asks exactly these leaders of a job from now on: gang and address.
    pub(super) fn ask(&self, owner: &Owner, leaders: &BTreeMap<u32, String>) {
        let mut state = lock(&self.state);
        state.asked.retain(|(uid, gang), (address, task)| {
            let stays = *uid != owner.uid || leaders.get(gang) == Some(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for (gang, address) in leaders {
            let key = (owner.uid.clone(), *gang);
            if state.asked.contains_key(&key) {
                continue;
            }
            let task = tokio::spawn(poll(
                self.http.clone(),
                Arc::clone(&self.state),
                self.wake.clone(),
                owner.clone(),
                *gang,
                address.clone(),
                self.every,
            ));
            state.asked.insert(key, (address.clone(), task.abort_handle()));
        }
    }

    /// Forgets a job that is gone or finished.
    pub(super) fn forget(&self, uid: &str) {
        let mut state = lock(&self.state);
        state.answers.remove(uid);
        state.saved.remove(uid);
        state.asked.retain(|(job, _), (_, task)| {
            if job == uid {
                task.abort();
            }
            job != uid
        });
    }
}

impl<A: Answer> State<A> {
    fn new() -> State<A> {
        State { answers: HashMap::new(), saved: HashMap::new(), asked: HashMap::new() }
    }

    /// Takes in an answer; tells whether it says something new.
    fn hear(&mut self, uid: &str, gang: u32, heard: A, now: Timestamp) -> bool {
        let of_job = self.answers.entry(uid.to_owned()).or_default();
        let known = of_job.get(&gang);
        if let Some((attempt, step)) = heard.saved()
            && known.and_then(Answer::saved) != Some((attempt, step))
        {
            self.saved.insert(uid.to_owned(), (attempt, now));
        }
        let moved = known != Some(&heard);
        of_job.insert(gang, heard);
        moved
    }
}

impl Polls<Progress> {
    /// The newest progress of a job of so many gangs, of which some are done.
    pub(super) fn newest(&self, uid: &str, gangs: u32, done: &BTreeSet<u32>) -> Option<Progress> {
        lock(&self.state).answers.get(uid).and_then(|heard| progress::of_job(heard, gangs, done))
    }

    /// How far each gang of a job was by its own last word.
    pub(super) fn marks(&self, uid: &str) -> BTreeMap<u32, Mark> {
        let state = lock(&self.state);
        let heard = state.answers.get(uid).into_iter().flatten();
        heard.map(|(gang, heard)| (*gang, Mark::of(heard))).collect()
    }

    /// When an attempt of a job last told of a new checkpoint.
    pub(super) fn saved(&self, uid: &str, attempt: u32) -> Option<Timestamp> {
        lock(&self.state).saved.get(uid).filter(|(of, _)| *of == attempt).map(|(_, at)| *at)
    }
}

impl Polls<Serving> {
    /// The newest answer of an endpoint's pod.
    pub(super) fn answer(&self, uid: &str) -> Option<Serving> {
        lock(&self.state).answers.get(uid)?.values().next().cloned()
    }
}

async fn poll<A: Answer>(
    http: Http,
    state: Arc<Mutex<State<A>>>,
    wake: tokio::sync::mpsc::UnboundedSender<Owner>,
    owner: Owner,
    gang: u32,
    address: String,
    every: Duration,
) {
    let host = if address.contains(':') { format!("[{address}]") } else { address };
    let Ok(uri) = format!("http://{host}:{}{}", A::PORT, A::PATH).parse::<http::Uri>() else { return };
    // The first question comes at a time of the job's own, so that a thousand jobs are spread evenly.
    let offset = owner.uid.bytes().fold(u64::from(gang), |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let share = u32::try_from(offset % 997).unwrap_or(0);
    tokio::time::sleep(every * share / 997).await;
    loop {
        if let Some(heard) = ask::<A>(&http, &uri).await
            && lock(&state).hear(&owner.uid, gang, heard, Timestamp::now())
            && wake.send(owner.clone()).is_err()
        {
            return;
        }
        tokio::time::sleep(every).await;
    }
}

/// No answer is no fault: the leader starts, or ends, or is a trainer that tells nothing.
async fn ask<A: Answer>(http: &Http, uri: &http::Uri) -> Option<A> {
    let answer = tokio::time::timeout(PATIENCE, http.get(uri.clone())).await.ok()?.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect();
    let bytes = tokio::time::timeout(PATIENCE, body).await.ok()?.ok()?.to_bytes();
    serde_json::from_slice(&bytes).ok().map(A::bounded)
}

fn lock<A>(state: &Mutex<State<A>>) -> MutexGuard<'_, State<A>> {
    // A panic while it was held can only have left out one answer.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_checkpoint_is_dated_by_the_first_answer_that_tells_of_it() {
        let mut state = State::new();
        let answer =
            |attempt, step, checkpoint_step| Progress { attempt, step, checkpoint_step, ..Progress::default() };
        for (seconds, heard, moved, saved) in [
            (0, answer(1, 5, None), true, None),
            (10, answer(1, 5, None), false, None),
            (20, answer(1, 15, Some(10)), true, Some((1, at(20)))),
            (30, answer(1, 25, Some(10)), true, Some((1, at(20)))),
            (40, answer(1, 35, Some(30)), true, Some((1, at(40)))),
            // The next attempt goes on from there, and has saved nothing yet.
            (50, answer(2, 31, None), true, Some((1, at(40)))),
            (60, answer(2, 40, Some(30)), true, Some((2, at(60)))),
        ] {
            assert_eq!(state.hear("u", 0, heard, at(seconds)), moved, "at {seconds} s");
            assert_eq!(state.saved.get("u").copied(), saved, "at {seconds} s");
        }
    }
}
