//! Who is to be looked at, since something of theirs has changed. Changes come in bursts: of a gang of 256 that stops, more than five
//! hundred within a second or two, and each look goes over all its members. They are gathered for a moment, and make one look.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::Duration;

use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use futures::stream::{self, Stream};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::endpoint;
use super::pods::Owner;

/// How long changes are gathered: as long as one or two requests take.
const GATHERING: Duration = Duration::from_millis(20);

/// The way of those who are to be looked at to the controllers.
#[derive(Clone)]
pub(super) struct Wakes {
    training: UnboundedSender<ObjectRef<TrainingJob>>,
    scoring: UnboundedSender<ObjectRef<ScoringJob>>,
    endpoint: UnboundedSender<ObjectRef<ModelEndpoint>>,
}

/// Where they come to, by kind.
pub(super) struct Woken {
    pub(super) training: UnboundedReceiver<ObjectRef<TrainingJob>>,
    pub(super) scoring: UnboundedReceiver<ObjectRef<ScoringJob>>,
    pub(super) endpoint: UnboundedReceiver<ObjectRef<ModelEndpoint>>,
}

impl Wakes {
    pub(super) fn new() -> (Wakes, Woken) {
        let (training, trainings) = mpsc::unbounded_channel();
        let (scoring, scorings) = mpsc::unbounded_channel();
        let (endpoint, endpoints) = mpsc::unbounded_channel();
        let woken = Woken { training: trainings, scoring: scorings, endpoint: endpoints };
        (Wakes { training, scoring, endpoint }, woken)
    }

    /// Lets an object be looked at.
    pub(super) fn wake(&self, owner: &Owner) {
        // A closed channel means that the controller has ended, which ends the process.
        let _ = match owner.kind.as_str() {
            "TrainingJob" => self.training.send(ObjectRef::new(&owner.name).within(&owner.namespace)).is_ok(),
            "ScoringJob" => self.scoring.send(ObjectRef::new(&owner.name).within(&owner.namespace)).is_ok(),
            endpoint::KIND => self.endpoint.send(ObjectRef::new(&owner.name).within(&owner.namespace)).is_ok(),
            _ => true,
        };
    }
}

/// What is received, each once for all that came within [`GATHERING`] of the first.
pub(super) fn gathered<T: Eq + Hash>(receiver: UnboundedReceiver<T>) -> impl Stream<Item = T> {
    stream::unfold((receiver, Vec::new()), |(mut receiver, mut gathered)| async move {
        if gathered.is_empty() {
            let mut burst = HashSet::from([receiver.recv().await?]);
            tokio::time::sleep(GATHERING).await;
            while let Ok(next) = receiver.try_recv() {
                burst.insert(next);
            }
            gathered.extend(burst);
        }
        let next = gathered.pop()?;
        Some((next, (receiver, gathered)))
    })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn of_a_burst_each_comes_once_and_what_comes_later_comes_again() {
        let (sender, receiver) = mpsc::unbounded_channel();
        for number in [1, 2, 1, 1, 2] {
            sender.send(number).expect("it is received");
        }
        let mut woken = std::pin::pin!(gathered(receiver));
        let burst = HashSet::from([woken.next().await, woken.next().await]);
        assert_eq!(burst, HashSet::from([Some(1), Some(2)]));
        sender.send(1).expect("it is received");
        assert_eq!(woken.next().await, Some(1));
        drop(sender);
        assert_eq!(woken.next().await, None);
    }
}
