//! Asks the leaders of running gangs how far they are, each every ten seconds at a time of its own, and wakes the reconciler
//! when one has moved.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::contract::{PROGRESS_PORT, Progress};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use tokio::task::AbortHandle;

use super::pods::Owner;
use crate::observe::progress;

/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Largest answer that is read.
const ANSWER_BYTES: usize = 64 << 10;

type Http = Client<HttpConnector, Empty<bytes::Bytes>>;

/// The questions under way, and the newest answers.
pub(super) struct Polls {
    every: Duration,
    http: Http,
    state: Arc<Mutex<State>>,
    wake: tokio::sync::mpsc::UnboundedSender<Owner>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, BTreeMap<u32, Progress>>,
    /// When the newest checkpoint of each job was first heard of, and of which attempt it is.
    saved: HashMap<String, (u32, Timestamp)>,
    asked: HashMap<(String, u32), (String, AbortHandle)>,
}

impl Polls {
    /// Asks every `every`; the owners of what has moved go to `wake`.
    pub(super) fn new(every: Duration, wake: tokio::sync::mpsc::UnboundedSender<Owner>) -> Polls {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PATIENCE));
        let http = Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(30)).build(connector);
        Polls { every, http, state: Arc::default(), wake }
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

    /// The newest progress of all gangs of a job, summed up.
    pub(super) fn newest(&self, uid: &str) -> Option<Progress> {
        lock(&self.state).answers.get(uid).and_then(|gangs| progress::sum(gangs.values()))
    }

    /// When an attempt of a job last told of a new checkpoint.
    pub(super) fn saved(&self, uid: &str, attempt: u32) -> Option<Timestamp> {
        lock(&self.state).saved.get(uid).filter(|(of, _)| *of == attempt).map(|(_, at)| *at)
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

impl State {
    /// Takes in an answer; tells whether it says something new.
    fn hear(&mut self, uid: &str, gang: u32, heard: Progress, now: Timestamp) -> bool {
        let of_job = self.answers.entry(uid.to_owned()).or_default();
        let known = of_job.get(&gang);
        let saved_before = known.filter(|known| known.attempt == heard.attempt).and_then(|known| known.checkpoint_step);
        if heard.checkpoint_step.is_some() && heard.checkpoint_step != saved_before {
            self.saved.insert(uid.to_owned(), (heard.attempt, now));
        }
        let moved = known != Some(&heard);
        of_job.insert(gang, heard);
        moved
    }
}

async fn poll(
    http: Http,
    state: Arc<Mutex<State>>,
    wake: tokio::sync::mpsc::UnboundedSender<Owner>,
    owner: Owner,
    gang: u32,
    address: String,
    every: Duration,
) {
    let host = if address.contains(':') { format!("[{address}]") } else { address };
    let Ok(uri) = format!("http://{host}:{PROGRESS_PORT}/progress").parse::<http::Uri>() else { return };
    // The first question comes at a time of the job's own, so that a thousand jobs are spread evenly.
    let offset = owner.uid.bytes().fold(u64::from(gang), |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let share = u32::try_from(offset % 997).unwrap_or(0);
    tokio::time::sleep(every * share / 997).await;
    loop {
        if let Some(heard) = ask(&http, &uri).await
            && lock(&state).hear(&owner.uid, gang, heard, Timestamp::now())
            && wake.send(owner.clone()).is_err()
        {
            return;
        }
        tokio::time::sleep(every).await;
    }
}

/// No answer is no fault: the leader starts, or ends, or is a trainer that tells nothing.
async fn ask(http: &Http, uri: &http::Uri) -> Option<Progress> {
    let answer = tokio::time::timeout(PATIENCE, http.get(uri.clone())).await.ok()?.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect();
    let bytes = tokio::time::timeout(PATIENCE, body).await.ok()?.ok()?.to_bytes();
    serde_json::from_slice(&bytes).ok().map(Progress::bounded)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
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
        let mut state = State::default();
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
