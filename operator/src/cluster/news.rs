//! What people are told: an Event for each change that a person cares about, after the status that it tells of was written.
//!
//! Events are published beside the work: no look at a job waits for one, so that pods come first when many jobs start. Each is
//! an object of its own, for its sentence is its own; who repeats it is the cause of the repetition, not we.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crds::contract::MANAGER;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::core::ObjectMeta;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::context::Context;

/// Events that may wait to be published. Beyond that the newest are only logged: then the API server is the news.
const WAITING: usize = 4096;
/// Events that are published at the same time.
const AT_ONCE: usize = 4;

/// An event that is yet to be published.
#[derive(Debug)]
pub(super) struct Told(Box<Event>);

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
    fn what_nobody_takes_is_dropped_and_not_kept() {
        let (news, mut way) = News::new();
        news.spread(&events(WAITING + 3), &ObjectReference::default());
        assert_eq!(std::iter::from_fn(|| way.try_recv().ok()).count(), WAITING);
    }
}
