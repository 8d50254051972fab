//! How many requests are under way at a time. Each takes a connection, and a new connection costs the API server more than a
//! request: hundreds of jobs that start at once don't open thousands.
//!
//! Pods have a lane of their own, so that neither they nor the statuses of other jobs wait for each other.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Pods that are created at the same time. An API server that takes 20 ms for each is kept busy with 2,400 a second.
const CREATIONS: usize = 48;
/// Other requests at the same time.
const OTHERS: usize = 32;

/// The lanes to the API server.
#[derive(Debug)]
pub(super) struct Lanes {
    creations: Semaphore,
    others: Semaphore,
}

impl Default for Lanes {
    fn default() -> Lanes {
        Lanes { creations: Semaphore::new(CREATIONS), others: Semaphore::new(OTHERS) }
    }
}

impl Lanes {
    /// Waits for room for a request of this verb, and keeps it until the permit is dropped.
    pub(super) async fn enter(&self, verb: &str) -> Option<SemaphorePermit<'_>> {
        let lane = if verb == "create_pod" { &self.creations } else { &self.others };
        // A semaphore that is never closed gives a permit at last.
        lane.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_full_lane_lets_the_other_one_pass() {
        let lanes = Lanes::default();
        let mut under_way = Vec::new();
        for _ in 0..CREATIONS {
            under_way.push(lanes.enter("create_pod").await);
        }
        assert!(lanes.enter("create_pod").now_or_never().is_none());
        assert!(lanes.enter("patch_status").now_or_never().is_some());
        under_way.pop();
        assert!(lanes.enter("create_pod").now_or_never().is_some());
    }
}
