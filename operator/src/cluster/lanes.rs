//! How many requests are under way at a time. Each takes a connection, and a new connection costs the API server more than a
//! request: hundreds of jobs that start at once don't open thousands.
//!
//! Pods have a lane of their own, and come first: while it is full, the statuses and services of other jobs share a few places,
//! so that the API server has its time for pods. None of them waits for the end of the burst. What is only told, an event, waits
//! for it a moment.
//!
//! A busy API server shares its time among all requests that are under way. Of a gang that starts again the scheduler and the
//! kubelets take up the first pods while the last are still to be made: with fewer places than these have, most of its time would go
//! to pods that wait for the last one anyway.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Pods that are created or deleted at the same time: more wait in the queues of an API server, which are fair.
pub(super) const PODS: usize = 256;
/// Other requests at the same time.
const OTHERS: usize = 32;
/// Those of them that may begin while pods wait for room.
const BESIDE: usize = 4;
/// How long an event waits for the end of a burst of pods, and how often it looks whether that has come.
const MOMENT: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);

/// The lanes to the API server.
#[derive(Debug)]
pub(super) struct Lanes {
    pods: Semaphore,
    others: Semaphore,
    beside: Semaphore,
}

/// Room for one request, until it is dropped.
#[derive(Debug)]
pub(super) struct Room<'a> {
    _places: [Option<SemaphorePermit<'a>>; 2],
}

impl Default for Lanes {
    fn default() -> Lanes {
        let [pods, others, beside] = [PODS, OTHERS, BESIDE].map(Semaphore::new);
        Lanes { pods, others, beside }
    }
}

impl Lanes {
    /// Waits for room for a request of this verb.
    pub(super) async fn enter(&self, verb: &str) -> Room<'_> {
        // A semaphore that is never closed gives a permit at last.
        if matches!(verb, "create_pod" | "delete_pod") {
            return Room { _places: [self.pods.acquire().await.ok(), None] };
        }
        if verb == "publish_event" {
            let end = Instant::now() + MOMENT;
            while self.is_busy() && Instant::now() < end {
                tokio::time::sleep(LOOK).await;
            }
        }
        let place = self.others.acquire().await.ok();
        let beside = if self.is_busy() { self.beside.acquire().await.ok() } else { None };
        Room { _places: [place, beside] }
    }

    /// Whether pods wait for room.
    fn is_busy(&self) -> bool {
        self.pods.available_permits() == 0
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn while_pods_wait_a_few_others_pass() {
        let lanes = Lanes::default();
        let mut pods = Vec::new();
        for _ in 0..PODS {
            pods.push(lanes.enter("create_pod").await);
        }
        // Who has taken so many permits at a time gets no more before it has yielded, room or not.
        tokio::task::yield_now().await;
        assert!(lanes.enter("create_pod").now_or_never().is_none());
        assert!(lanes.enter("publish_event").now_or_never().is_none(), "an event waits a moment");
        let mut others = Vec::new();
        for _ in 0..BESIDE {
            others.push(lanes.enter("patch_status").now_or_never().expect("room"));
        }
        assert!(lanes.enter("patch_status").now_or_never().is_none());
        others.pop();
        others.push(lanes.enter("patch_status").now_or_never().expect("room again"));
        pods.pop();
        assert!(lanes.enter("create_pod").now_or_never().is_some());
        for _ in BESIDE..OTHERS {
            others.push(lanes.enter("patch_status").now_or_never().expect("as much room as there is"));
        }
        assert!(lanes.enter("patch_status").now_or_never().is_none());
    }
}
