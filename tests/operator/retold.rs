//! Lives of jobs with watches that leave events out, tell them twice and in another order, and say that they have lost their place: the
//! end is the one of a life in which all is told once, as it happens.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::FutureExt;
use futures::stream::{self, BoxStream, StreamExt};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::json;
use tokio::time::Instant;
use tower::BoxError;

use crate::plays::{PLAYS, Play};
use crate::ways::end_alike;
use crate::wire::{Answer, Fate};

/// The plays in which pods come and go most.
const RETOLD: [&str; 4] = ["restarted", "suspended", "shards", "followed"];
/// Lives of each play, each told in another way.
const LIVES: u64 = 2;
/// Of so many events, one is told in another way.
const ONE_IN: u64 = 5;
/// How long a watch goes on that owes an event.
const OWES: Duration = Duration::from_millis(200);

/// A watch as it is told.
struct Tale {
    lines: BoxStream<'static, Result<Bytes, BoxError>>,
    /// What was received and is no whole line yet.
    begun: Vec<u8>,
    /// What is to be told next.
    told: VecDeque<Bytes>,
    /// An event that is told after the next one.
    held: Option<Bytes>,
    /// When it says that it has lost its place: what it left out is seen in the list that follows.
    ends: Option<Instant>,
    has_ended: bool,
    seed: u64,
    events: u64,
}

impl Tale {
    fn begin(body: Body, seed: u64) -> Answer {
        let lines = body.into_data_stream().map(|data| data.map_err(BoxError::from)).boxed();
        let (begun, told) = (Vec::new(), VecDeque::new());
        let tale = Tale { lines, begun, told, held: None, ends: None, has_ended: false, seed, events: 0 };
        let frames = stream::unfold(tale, |mut tale| async move { Some((tale.next().await?.map(Frame::data), tale)) });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            if let Some(line) = self.told.pop_front() {
                return Some(Ok(line));
            }
            if self.has_ended {
                return None;
            }
            let end = self.ends;
            let ends = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ends => self.lose_its_place(),
                received = self.lines.next() => match received {
                    Some(Ok(data)) => self.receive(&data),
                    other => return other,
                },
            }
        }
    }

    fn receive(&mut self, data: &[u8]) {
        self.begun.extend_from_slice(data);
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            if !self.has_ended {
                self.tell(line.into());
            }
        }
    }

    fn tell(&mut self, line: Bytes) {
        let mut hasher = DefaultHasher::new();
        (self.seed, self.events).hash(&mut hasher);
        let drawn = hasher.finish();
        self.events += 1;
        match drawn.is_multiple_of(ONE_IN).then_some(drawn / ONE_IN % 4) {
            Some(0) => self.owe(),
            Some(1) if self.held.is_none() => {
                self.held = Some(line);
                self.owe();
            }
            Some(2) => {
                self.told.push_back(line);
                self.lose_its_place();
            }
            Some(_) => self.told.extend([line.clone(), line]),
            None => {
                self.told.push_back(line);
                self.told.extend(self.held.take());
            }
        }
    }

    /// An event is left out, or late.
    fn owe(&mut self) {
        self.ends.get_or_insert_with(|| Instant::now() + OWES);
    }

    fn lose_its_place(&mut self) {
        let status = json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 410, "reason": "Expired",
            "message": "too old resource version",
        });
        let lost = json!({"type": "ERROR", "object": status});
        self.told.extend(self.held.take());
        self.told.push_back(format!("{lost}\n").into());
        self.has_ended = true;
    }
}

/// What becomes of a request in a life of this seed.
fn fate(request: &Request<Body>, seed: u64, watches: &AtomicU64) -> Fate {
    if !request.uri().query().is_some_and(|query| query.contains("watch=")) {
        return Fate::Pass;
    }
    let seed = (seed << 32) | watches.fetch_add(1, Ordering::SeqCst);
    Fate::Retold(async {}.boxed(), Box::new(move |body| Tale::begin(body, seed)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_life_survives_watches_that_leave_out_repeat_and_lose_their_place() {
    let plays: Vec<&Play> = PLAYS.iter().filter(|play| RETOLD.contains(&play.name)).collect();
    assert_eq!(plays.len(), RETOLD.len());
    end_alike(plays, LIVES, |yard, seed| {
        let watches = AtomicU64::new(0);
        yard.start_operator_through(move |request| fate(request, seed, &watches));
    })
    .await;
}
