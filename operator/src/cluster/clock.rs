//! The time that decisions are taken at. Deadlines, backoffs and lifetimes stand in statuses as times of day, and the clock of the day
//! may be set: by a jump none of them is to end early, and none twice.
//!
//! This clock begins with the time of day and goes on by one that nobody sets. What the time of day is off by then is caught up with
//! by a tenth of the time that passes at most, as a clock is that was wrong when the operator started.

use std::sync::Mutex;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::context::lock;
use super::lease::elapsed;

/// One part of so many of the time that passes is what the clock is put right by at most.
const PARTS: i32 = 10;

/// A clock that does not jump.
#[derive(Debug)]
pub(super) struct Clock(Mutex<Hand>);

#[derive(Debug)]
struct Hand {
    /// Time on the clock that nobody sets, when this one was looked at last.
    at: Duration,
    /// What it showed then.
    shows: Timestamp,
}

impl Clock {
    /// Starts at the time of day.
    pub(super) fn start() -> Clock {
        Clock(Mutex::new(Hand { at: elapsed(), shows: Timestamp::now() }))
    }

    /// The time.
    pub(super) fn now(&self) -> Timestamp {
        let mut hand = lock(&self.0);
        // Under the lock: of two looks the later one sees the later time.
        hand.turn(elapsed(), Timestamp::now())
    }

    /// The time in whole seconds, as a status keeps it.
    pub(super) fn second(&self) -> Timestamp {
        Timestamp::from_second(self.now().as_second()).unwrap_or_default()
    }
}

impl Hand {
    fn turn(&mut self, at: Duration, time_of_day: Timestamp) -> Timestamp {
        let passed = SignedDuration::try_from(at.saturating_sub(self.at)).unwrap_or_default();
        self.at = self.at.max(at);
        let shows = self.shows.checked_add(passed).unwrap_or(Timestamp::MAX);
        let most = passed / PARTS;
        let off = time_of_day.duration_since(shows).clamp(-most, most);
        self.shows = shows.checked_add(off).unwrap_or(shows);
        self.shows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_jump_of_the_time_of_day_moves_the_clock_by_a_tenth_of_what_has_passed_and_never_back() {
        let day = 24 * 3600;
        // Seconds that have passed, the time of day after them, and what the clock shows then.
        for (name, steps) in [
            ("nothing is off", vec![(60, 60, 60), (60, 60, 60), (3600, 3600, 3600)]),
            ("forward", vec![(100, 100, 100), (100, 100 + day, 100), (110, 110 + day, 111), (120, 120 + day, 122)]),
            ("back", vec![(100, 100, 100), (100, 100 - day, 100), (110, 110 - day, 109), (210, 210 - day, 199)]),
            ("caught up", vec![(100, 105, 105), (200, 205, 205)]),
            ("time itself stands still", vec![(100, 100, 100), (50, 500, 100)]),
        ] {
            let mut hand = Hand { at: Duration::ZERO, shows: at(0) };
            for (passed, time_of_day, shows) in steps {
                assert_eq!(
                    hand.turn(Duration::from_secs(passed), at(time_of_day)),
                    at(shows),
                    "{name}, after {passed} s"
                );
            }
        }
    }
}
