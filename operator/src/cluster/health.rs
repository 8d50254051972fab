//! Whether the operator works: what `/livez` and `/readyz` rest on.
//!
//! What must go on for ever leaves a stamp each time it comes round: the loop that all looks are part of, and the turns at the lease. A
//! watch that fails is tried again by itself, so that one error says nothing, and no error says as little: a watch of what does not
//! change is silent. It fails while its errors go on.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::context::lock;

/// Time without a stamp after which the operator counts as stuck; or the duration of its lease, if that is longer.
const STUCK: Duration = Duration::from_secs(120);
/// Time between two stamps of the loop.
const BEAT: Duration = Duration::from_secs(5);
/// How long a watch may fail until the operator is not ready.
const FAILING: Duration = Duration::from_secs(60);
/// Time without another error after which a watch has come back. Its tries are half a minute apart at most, and each may take as long.
const QUIET: Duration = Duration::from_secs(90);

/// What is known of how the operator fares.
#[derive(Debug)]
pub(super) struct Health {
    began: Instant,
    stuck: Duration,
    /// Milliseconds since the beginning when the loop and the lease left their last stamps; 0 of one that does not run.
    stamps: [AtomicU64; 2],
    /// The first and the last error in a row of each watch that has had one.
    errors: Mutex<BTreeMap<String, (Instant, Instant)>>,
}

/// What leaves stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The loop that the controllers are part of.
    Loop,
    /// The turns at the lease.
    Lease,
}

impl Part {
    const ALL: [(Part, &'static str); 2] = [(Part::Loop, "the loop of the controllers"), (Part::Lease, "the lease")];
}

impl Health {
    /// Of an operator that begins now, with a lease of this duration.
    pub(super) fn new(began: Instant, lease: Option<Duration>) -> Health {
        let stuck = lease.map_or(STUCK, |lease| lease.max(STUCK));
        Health { began, stuck, stamps: [AtomicU64::new(0), AtomicU64::new(0)], errors: Mutex::default() }
    }

    /// A part has come round.
    pub(super) fn stamp(&self, part: Part, now: Instant) {
        let since = u64::try_from(now.duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
        self.of(part).store(since.max(1), Ordering::Relaxed);
    }

    /// A part has come to its end.
    pub(super) fn end(&self, part: Part) {
        self.of(part).store(0, Ordering::Relaxed);
    }

    fn of(&self, part: Part) -> &AtomicU64 {
        let [of_loop, of_lease] = &self.stamps;
        match part {
            Part::Loop => of_loop,
            Part::Lease => of_lease,
        }
    }

    /// Stamps for as long as it is polled.
    pub(super) async fn beat(&self) {
        loop {
            self.stamp(Part::Loop, Instant::now());
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Whether all that runs goes on; or what does not.
    pub(super) fn liveness(&self, now: Instant) -> Result<(), String> {
        for (part, name) in Part::ALL {
            let stamp = self.of(part).load(Ordering::Relaxed);
            let since = now.duration_since(self.began).saturating_sub(Duration::from_millis(stamp));
            if stamp > 0 && since > self.stuck {
                return Err(format!("{name} has stood still for {} s", since.as_secs()));
            }
        }
        Ok(())
    }

    /// Takes in what a watch has told.
    pub(super) fn note<T, E>(&self, watch: &str, told: &Result<T, E>) {
        match told {
            Ok(_) => self.heard(watch),
            Err(_) => self.failed(watch, Instant::now()),
        }
    }

    /// A watch has failed, and is tried again.
    fn failed(&self, watch: &str, now: Instant) {
        let mut errors = lock(&self.errors);
        let first =
            errors.get(watch).filter(|(_, last)| now.duration_since(*last) <= QUIET).map_or(now, |(first, _)| *first);
        errors.insert(watch.to_owned(), (first, now));
    }

    /// A watch has told something.
    fn heard(&self, watch: &str) {
        lock(&self.errors).remove(watch);
    }

    /// A watch whose errors go on for more than a minute.
    pub(super) fn blind(&self, now: Instant) -> Option<String> {
        let errors = lock(&self.errors);
        let fails = |(first, last): &(Instant, Instant)| {
            last.duration_since(*first) > FAILING && now.duration_since(*last) <= QUIET
        };
        errors.iter().find(|(_, times)| fails(times)).map(|(watch, _)| watch.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(began: Instant, seconds: u64) -> Instant {
        began + Duration::from_secs(seconds)
    }

    #[test]
    fn a_part_that_stands_still_is_no_life_and_one_that_does_not_run_is_not_asked_for() {
        let began = Instant::now();
        let health = Health::new(began, None);
        assert_eq!(health.liveness(after(began, 1_000)), Ok(()), "nothing runs yet");
        health.stamp(Part::Lease, after(began, 1));
        health.stamp(Part::Loop, after(began, 10));
        assert_eq!(health.liveness(after(began, 100)), Ok(()));
        let stuck = health.liveness(after(began, 126));
        assert_eq!(stuck, Err("the lease has stood still for 125 s".to_owned()));
        health.end(Part::Lease);
        assert_eq!(health.liveness(after(began, 125)), Ok(()));
        let stuck = health.liveness(after(began, 140));
        assert_eq!(stuck, Err("the loop of the controllers has stood still for 130 s".to_owned()));
        health.stamp(Part::Loop, after(began, 140));
        assert_eq!(health.liveness(after(began, 200)), Ok(()));
    }

    #[test]
    fn a_watch_is_blind_while_its_errors_go_on_for_more_than_a_minute() {
        let began = Instant::now();
        let health = Health::new(began, None);
        let blind = |seconds| health.blind(after(began, seconds));
        health.failed("pods", began);
        assert_eq!(blind(80), None, "one error says nothing");
        for seconds in [100, 130, 160] {
            health.failed("pods", after(began, seconds));
            assert_eq!(blind(seconds), None, "{seconds}");
        }
        health.failed("pods", after(began, 190));
        assert_eq!(blind(270).as_deref(), Some("pods"));
        assert_eq!(blind(281), None, "it came back, and nothing has changed since");
        health.heard("pods");
        assert_eq!(blind(190), None);
    }
}
