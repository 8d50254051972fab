//! The places of connections. Where all are taken, one that waits for its client makes room for a new one: first those that
//! have asked for nothing, then those whose request is still on its way, of each kind the one that has waited longest. Whoever
//! waits for an answer, or takes one, stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant, sleep_until};

/// How long a connection may stay in any case, by what it waits for: a client that has just come has not had its turn.
const STAYS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// What a connection waits for that nothing is done for: an index of [`STAYS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    ForRequest = 0,
    ForBody = 1,
}

/// All places.
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// One more waits.
    more: Notify,
}

/// The connections that wait for their clients, in the order of their coming.
#[derive(Default)]
struct Waiting {
    next: u64,
    kinds: [BTreeMap<u64, (Instant, Arc<Tenant>)>; 2],
}

/// A connection as its place sees it.
pub(super) struct Tenant {
    places: Arc<Places>,
    standing: Mutex<Standing>,
    evicted: Notify,
}

#[derive(Default)]
struct Standing {
    /// Requests that are still on their way.
    coming: usize,
    /// Requests that have come and are not answered.
    owed: usize,
    /// Whether the client is slow to take what was written, or the connection gone already.
    is_stalled: bool,
    /// What it waits for, and its number among those that do.
    waits: Option<(Waits, u64)>,
}

/// The place of a connection, free again when it is dropped.
pub(super) struct Seat {
    tenant: Arc<Tenant>,
    _place: OwnedSemaphorePermit,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is whole before anything could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    /// For `most` connections at a time.
    pub(super) fn new(most: usize) -> Arc<Places> {
        Arc::new(Places { free: Arc::new(Semaphore::new(most)), waiting: Mutex::default(), more: Notify::new() })
    }

    /// A place for a connection that is there. None only if places are given no more.
    pub(super) async fn take(self: &Arc<Places>) -> Option<Seat> {
        loop {
            let more = self.more.notified();
            if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
                return Some(self.seat(place));
            }
            let free = Arc::clone(&self.free).acquire_owned();
            let due = match self.evict(Instant::now()) {
                Ok(()) => return Some(self.seat(free.await.ok()?)),
                Err(due) => due,
            };
            let due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                place = free => return Some(self.seat(place.ok()?)),
                () = due => {}
                () = more => {}
            }
        }
    }

    /// Tells the connection that has waited longest to go; or when there is one that must, if there is any.
    fn evict(&self, now: Instant) -> Result<(), Option<Instant>> {
        let mut waiting = lock(&self.waiting);
        let mut earliest: Option<Instant> = None;
        for (kind, stays) in waiting.kinds.iter_mut().zip(STAYS) {
            let Some(first) = kind.first_entry() else { continue };
            let due = first.get().0 + stays;
            if due <= now {
                first.remove().1.evicted.notify_one();
                return Ok(());
            }
            earliest = Some(earliest.map_or(due, |earliest| earliest.min(due)));
        }
        Err(earliest)
    }

    fn seat(self: &Arc<Places>, place: OwnedSemaphorePermit) -> Seat {
        let tenant = Tenant { places: Arc::clone(self), standing: Mutex::default(), evicted: Notify::new() };
        let tenant = Arc::new(tenant);
        tenant.change(|_| ());
        Seat { tenant, _place: place }
    }
}

impl Seat {
    pub(super) fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.tenant.change(|standing| standing.is_stalled = true);
    }
}

impl Tenant {
    /// Waits until it has to make room.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Whether the client is slow to take what was written.
    pub(super) fn stalls(self: &Arc<Tenant>, is_stalled: bool) {
        self.change(|standing| standing.is_stalled = is_stalled);
    }

    /// The head of a request has come.
    pub(super) fn asks(self: &Arc<Tenant>) {
        self.change(|standing| standing.coming += 1);
    }

    /// The rest of it has come, and an answer is owed.
    pub(super) fn has_asked(self: &Arc<Tenant>) {
        self.change(|standing| (standing.coming, standing.owed) = (standing.coming - 1, standing.owed + 1));
    }

    /// A request is answered, or will not be; perhaps before the rest of it has come.
    pub(super) fn is_answered(self: &Arc<Tenant>, had_come: bool) {
        self.change(|standing| if had_come { standing.owed -= 1 } else { standing.coming -= 1 });
    }

    fn change(self: &Arc<Tenant>, change: impl FnOnce(&mut Standing)) {
        let mut standing = lock(&self.standing);
        change(&mut standing);
        let waits = match *standing {
            Standing { owed: 1.., .. } | Standing { is_stalled: true, .. } => None,
            Standing { coming: 1.., .. } => Some(Waits::ForBody),
            _ => Some(Waits::ForRequest),
        };
        if waits == standing.waits.map(|(waits, _)| waits) {
            return;
        }
        let mut waiting = lock(&self.places.waiting);
        if let Some((before, number)) = standing.waits {
            waiting.kinds[before as usize].remove(&number);
        }
        standing.waits = waits.map(|waits| {
            let number = waiting.next;
            waiting.next += 1;
            waiting.kinds[waits as usize].insert(number, (Instant::now(), Arc::clone(self)));
            self.places.more.notify_one();
            (waits, number)
        });
    }
}
