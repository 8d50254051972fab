//! Lives of jobs with an API server that refuses, is busy, has forgotten its history, or whose connections break after a
//! write took effect: the end is the one of a life without any of it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crds::status::Phase;
use http::{Method, Request, StatusCode};
use kube::client::Body;
use serde_json::json;

use crate::plays::PLAYS;
use crate::ways::end_alike;
use crate::wire::Fate;
use crate::yard::{Yard, trained};

/// Lives of each play, each with other faults.
const LIVES: u64 = 3;
/// Of so many requests, one fails.
const ONE_IN: u64 = 6;
/// Times in a row that requests of one path fail: what never lets up is no passing fault.
const IN_A_ROW: u32 = 2;

/// Draws the fate of each request from a seed and the request's number.
struct Schedule {
    seed: u64,
    requests: AtomicU64,
    in_a_row: Mutex<HashMap<String, u32>>,
}

impl Schedule {
    fn fate(&self, request: &Request<Body>) -> Fate {
        let mut hasher = DefaultHasher::new();
        (self.seed, self.requests.fetch_add(1, Ordering::SeqCst)).hash(&mut hasher);
        let drawn = hasher.finish();
        let mut in_a_row = self.in_a_row.lock().unwrap();
        let faults = in_a_row.entry(format!("{} {}", request.method(), request.uri().path())).or_default();
        if !drawn.is_multiple_of(ONE_IN) || *faults == IN_A_ROW {
            *faults = 0;
            return Fate::Pass;
        }
        *faults += 1;
        let of_reads = [StatusCode::GONE, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::TOO_MANY_REQUESTS];
        match drawn / ONE_IN % 4 {
            3 if request.method() == Method::GET => Fate::Refused(StatusCode::SERVICE_UNAVAILABLE),
            3 => Fate::Broken,
            2 if request.method() != Method::GET => Fate::Refused(StatusCode::CONFLICT),
            kind => Fate::Refused(of_reads[usize::try_from(kind).unwrap_or_default()]),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_life_survives_an_api_server_that_refuses() {
    end_alike(&PLAYS, LIVES, |yard, seed| {
        let schedule = Schedule { seed, requests: AtomicU64::new(0), in_a_row: Mutex::default() };
        yard.start_operator_through(move |request| schedule.fate(request));
    })
    .await;
}

#[tokio::test]
async fn what_a_status_tells_is_told_also_where_no_write_of_it_is_ever_answered() {
    let mut yard = Yard::idle("unanswered", &["cpu"]).await;
    yard.start_operator_through(|request| match request.uri().path().ends_with("/a/status") {
        true => Fate::Broken,
        false => Fate::Pass,
    });
    yard.train("a", json!({})).await;
    let pods = yard.namespace.pods();
    pods.running("a-t1-0").await;
    yard.phase("a", Phase::Running).await;
    pods.finish("a-t1-0", 0, &trained()).await;
    yard.phase("a", Phase::Succeeded).await;
    yard.patiently(async || {
        let events = yard.events().await;
        ["PodsCreated", "AllRunning", "Completed"].iter().all(|reason| events.contains(*reason))
    })
    .await;
}
