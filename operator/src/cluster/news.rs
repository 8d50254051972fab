//! What people are told: an Event for each change that a person cares about, after the status that it tells of was written.
//!
//! Events are published beside the work: no look at a job waits for one, so that pods come first when many jobs start. Each is
//! an object of its own, for its sentence is its own; who repeats it is the cause of the repetition, not we.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crds::contract::MANAGER;
use crds::status::JobStatus;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::core::ObjectMeta;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::context::Context;
use super::kind::Kind;
use crate::observe::{Attempt, Ledger};

/// Events that may wait to be published. Beyond that the newest are only logged: then the API server is the news.
const WAITING: usize = 4096;
/// Events that are published at the same time.
const AT_ONCE: usize = 4;

/// An event that is yet to be published.
#[derive(Debug)]
pub(super) struct Told(Box<Event>);

/// What a status tells whose write was not answered.
#[derive(Clone, Debug)]
pub(super) struct Untold {
    /// What was remembered before.
    pub(super) before: Ledger,
    pub(super) after: Ledger,
    pub(super) ended: Vec<Attempt>,
    pub(super) events: Vec<crate::decide::Event>,
}

impl Untold {
    /// Whether the status of a job as it was read is the one that was written.
    pub(super) fn is_written<K: Kind>(&self, job: &K) -> bool {
        // What a status keeps of a ledger is less than all of it.
        let status = job.status_json(&self.after, &[], Timestamp::UNIX_EPOCH);
        let written = serde_json::from_value::<JobStatus>(status).map(|status| Ledger::of(&status));
        let read = job.status().map(Ledger::of);
        written.is_ok_and(|written| read.is_some_and(|read| read == written))
    }
}

/// The way of events to their publisher.
pub(super) struct News {
    /// `None` once nothing more is taken.
    way: Mutex<Option<Sender<Told>>>,
    instance: String,
    /// Makes names unique within this process.
    count: AtomicU64,
}

impl News {
    /// The way, and its end, which is to be given to [`tell`].
    pub(super) fn new() -> (News, Receiver<Told>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let instance = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
        let instance = instance.unwrap_or_else(|| "operator".to_owned());
        (News { way: Mutex::new(Some(sender)), instance, count: AtomicU64::new(0) }, receiver)
    }

    /// Lets everything that a plan has to tell be published, in time.
    pub(super) fn spread(&self, events: &[crate::decide::Event], regarding: &ObjectReference) {
        if events.is_empty() {
            return;
        }
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            let told = Told(Box::new(self.event(event, regarding)));
            if way.as_ref().is_none_or(|way| way.try_send(told).is_err()) {
                tracing::warn!(reason = event.reason, note = event.note, "an event was not published: too many wait");
            }
        }
    }

    /// Takes nothing more: [`tell`] ends once what waits is published.
    pub(super) fn close(&self) {
        self.way.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn event(&self, event: &crate::decide::Event, regarding: &ObjectReference) -> Event {
        let now = Timestamp::now();
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let name = regarding.name.as_deref().unwrap_or("job");
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}.{number:x}", now.as_nanosecond())),
                namespace: regarding.namespace.clone(),
                ..ObjectMeta::default()
            },
            action: Some(event.reason.clone()),
            event_time: Some(MicroTime(now)),
            note: Some(crds::status::bounded(&event.note)),
            reason: Some(event.reason.clone()),
            regarding: Some(regarding.clone()),
            reporting_controller: Some(MANAGER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}

/// Publishes what there is to tell until the way is closed. What can't be told is logged: it changes nothing.
pub(super) async fn tell(context: &Context, events: Receiver<Told>) {
    let events = stream::unfold(events, |mut events| async move { Some((events.recv().await?, events)) });
    events
        .for_each_concurrent(AT_ONCE, |Told(event)| async move {
            match context.actor().publish(&event).await {
                Ok(()) => {}
                // Whoever deletes a namespace doesn't want to be told of what was in it.
                Err(error) if error.is_namespace_going() => tracing::debug!(%error, reason = event.reason, "not told"),
                Err(error) => tracing::warn!(%error, reason = event.reason, "an event was not published"),
            }
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(number: usize) -> Vec<crate::decide::Event> {
        let event =
            |number| crate::decide::Event { warning: true, reason: "Restarting".into(), note: format!("{number}") };
        (0..number).map(event).collect()
    }

    #[test]
    fn each_sentence_is_an_event_of_its_own() {
        let (news, mut way) = News::new();
        let regarding = ObjectReference { name: Some("a".into()), namespace: Some("n".into()), ..Default::default() };
        news.spread(&events(2), &regarding);
        news.close();
        let told: Vec<Event> = std::iter::from_fn(|| way.try_recv().ok()).map(|told| *told.0).collect();
        assert_eq!(told.iter().map(|event| event.note.as_deref()).collect::<Vec<_>>(), [Some("0"), Some("1")]);
        assert_ne!(told[0].metadata.name, told[1].metadata.name);
        assert_eq!(told[0].type_.as_deref(), Some("Warning"));
        assert_eq!((&told[0].metadata.namespace, &told[0].regarding), (&Some("n".into()), &Some(regarding)));
    }

    #[test]
    fn what_was_written_without_an_answer_is_found_in_the_status_that_is_read() {
        use crds::TrainingJob;
        use crds::contract::{Cause, Progress};

        use crate::build::status;
        use crate::observe::{Failure, Phase};

        let now = Timestamp::UNIX_EPOCH;
        let failure = Failure { cause: Cause::Storage, member: 3, hint: "see to it".to_owned(), ..Failure::of_job() };
        let ended = Attempt { number: 1, shard: None, start: Some(now), end: now, failure };
        let progress = Progress { attempt: 1, step: 7, loss: Some(0.1 + 0.2), ..Progress::default() };
        let after = Ledger {
            phase: Phase::Restarting,
            attempt: 1,
            attempts: vec![ended.clone()],
            progress: Some(progress),
            ..Ledger::default()
        };
        let before = Ledger { phase: Phase::Running, attempt: 1, ..Ledger::default() };
        let untold = Untold { before: before.clone(), after: after.clone(), ended: vec![ended], events: events(1) };
        let mut job: TrainingJob = serde_json::from_value(serde_json::json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "a"},
            "spec": {"data": {"uri": "pvc://data/a"}, "output": {"uri": "pvc://models/a"}},
        }))
        .expect("a job");
        assert!(!untold.is_written(&job), "there is no status");
        let output = Some("pvc://models/a");
        // Conditions have their own times.
        for (ledger, is_written) in [(&before, false), (&after, true)] {
            let written = status::training(ledger, output, &[], Timestamp::from_second(9).expect("a time"));
            let sent = serde_json::to_string(&written).expect("JSON");
            job.status = Some(serde_json::from_str(&sent).expect("a status"));
            assert_eq!(untold.is_written(&job), is_written, "{:?}", ledger.phase);
        }
    }

    #[test]
    fn what_nobody_takes_is_dropped_and_not_kept() {
        let (news, mut way) = News::new();
        news.spread(&events(WAITING + 3), &ObjectReference::default());
        assert_eq!(std::iter::from_fn(|| way.try_recv().ok()).count(), WAITING);
    }
}
