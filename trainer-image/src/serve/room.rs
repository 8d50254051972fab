//! The memory that bodies of requests may take, all together. A body takes its part as its bytes come: who announces much and
//! sends nothing holds nothing.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Largest bodies that there is room for; for smaller ones as many more.
const BODIES: usize = 16;
/// Bytes by which a part grows.
const STEP: usize = 64 << 10;
/// Bytes of a body that need no room, no more than its head takes: who asks whether the server lives never waits for others.
const FREE: usize = 4 << 10;

/// The room, for all protocols.
#[derive(Clone, Debug)]
pub(super) struct Room {
    bytes: Arc<Semaphore>,
    /// Room for one more body as a whole: where all others wait for each other, one goes on, and ends.
    last: Arc<Semaphore>,
    largest: usize,
}

/// The part of the room that a request has; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Room,
    held: Option<OwnedSemaphorePermit>,
    last: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// For bodies of at most so many bytes.
    pub(super) fn new(largest: usize) -> Room {
        let bytes = Arc::new(Semaphore::new((BODIES - 1) * largest));
        Room { bytes, last: Arc::new(Semaphore::new(1)), largest }
    }

    /// Bytes that are free.
    #[cfg(test)]
    pub(super) fn available(&self) -> usize {
        self.bytes.available_permits()
    }

    /// A part that has nothing yet.
    pub(super) fn share(&self) -> Share {
        Share { room: self.clone(), held: None, last: None }
    }
}

impl Share {
    /// Waits until the part has room for so many bytes in all. Dropping the future leaves the part as it is.
    pub(super) async fn grow(&mut self, bytes: usize) {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if self.last.is_some() || bytes <= held.max(FREE) {
            return;
        }
        let wanted = bytes.next_multiple_of(STEP).min(self.room.largest);
        let more = u32::try_from(wanted.saturating_sub(held)).unwrap_or(u32::MAX);
        let (all, last) = (Arc::clone(&self.room.bytes), Arc::clone(&self.room.last));
        // An error means that a semaphore is closed, which none is.
        tokio::select! {
            biased;
            Ok(more) = all.acquire_many_owned(more) => match &mut self.held {
                Some(held) => held.merge(more),
                None => self.held = Some(more),
            },
            Ok(last) = last.acquire_owned() => self.last = Some(last),
            else => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const LARGEST: usize = 4 * STEP;

    fn grows(share: &mut Share, bytes: usize) -> bool {
        share.grow(bytes).now_or_never().is_some()
    }

    #[test]
    fn a_part_grows_with_what_has_come() {
        let room = Room::new(LARGEST);
        let free = || room.bytes.available_permits();
        let (all, mut share) = (free(), room.share());
        for (bytes, held) in
            [(0, 0), (FREE, 0), (FREE + 1, STEP), (STEP, STEP), (STEP + 1, 2 * STEP), (7, 2 * STEP), (LARGEST, LARGEST)]
        {
            assert!(grows(&mut share, bytes));
            assert_eq!(all - free(), held, "{bytes}");
        }
        drop(share);
        assert_eq!(free(), all);
        // A body may be smaller than a step.
        let small = Room::new(2 * FREE);
        let mut share = small.share();
        assert!(grows(&mut share, 2 * FREE));
        assert_eq!(small.bytes.available_permits(), 14 * 2 * FREE);
    }

    #[test]
    fn bodies_that_wait_for_each_other_end_one_after_the_other() {
        let room = Room::new(LARGEST);
        let mut shares: Vec<Share> = (0..2 * (BODIES - 1)).map(|_| room.share()).collect();
        assert!(shares.iter_mut().all(|share| grows(share, LARGEST / 2)), "half of each has come");
        // There is room for one that goes on, and when it has ended for the next.
        while let Some(mut first) = shares.pop() {
            assert!(grows(&mut first, LARGEST));
            if first.last.is_some() {
                assert!(!shares.iter_mut().any(|share| grows(share, LARGEST)));
            }
        }
        assert_eq!((room.bytes.available_permits(), room.last.available_permits()), (15 * LARGEST, 1));
    }
}
