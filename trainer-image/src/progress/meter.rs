//! Images per second and time left, smoothed: a pure computation over what was done when.

use std::time::{Duration, Instant};

/// How long the rate of images remembers, in seconds: long enough to be read, short enough to show a change.
const IMAGES_MEMORY: f64 = 15.0;
/// How long the rate of steps remembers, in seconds: the time left includes validation and checkpoints, which come now and
/// then.
const STEPS_MEMORY: f64 = 180.0;

/// Measures the rates of a run with the monotone clock.
#[derive(Clone, Debug)]
pub struct Meter {
    start: Instant,
    rates: Rates,
}

impl Meter {
    /// Begins at `step`, the number of steps done before.
    pub fn new(step: u64) -> Meter {
        Meter { start: Instant::now(), rates: Rates::new(step) }
    }

    /// Notes that `step` steps are done in all, and `images` more images than at the last call, over all ranks.
    pub fn add(&mut self, step: u64, images: u64) {
        self.rates.add(self.start.elapsed(), step, images);
    }

    /// Images per second over all ranks; 0 until something is done.
    pub fn images_per_second(&self) -> f64 {
        self.rates.images.per_second()
    }

    /// Seconds until `total` steps are done; none until something is done.
    pub fn eta_seconds(&self, step: u64, total: u64) -> Option<u64> {
        self.rates.eta_seconds(step, total)
    }
}

/// The computation behind [`Meter`], with the time as a parameter.
#[derive(Clone, Debug)]
pub struct Rates {
    step: u64,
    at: Duration,
    calls: u32,
    images: Decayed,
    steps: Decayed,
}

impl Rates {
    /// Begins at time zero with `step` steps done before.
    pub fn new(step: u64) -> Rates {
        Rates {
            step,
            at: Duration::ZERO,
            calls: 0,
            images: Decayed::with_memory(IMAGES_MEMORY),
            steps: Decayed::with_memory(STEPS_MEMORY),
        }
    }

    /// As [`Meter::add`], at the time `now` since the beginning.
    pub fn add(&mut self, now: Duration, step: u64, images: u64) {
        let seconds = now.saturating_sub(self.at).as_secs_f64();
        let steps = step.saturating_sub(self.step);
        if self.calls == 1 {
            // The first step chooses algorithms and fills caches. It stands alone as the first guess, then it is dropped.
            self.images = Decayed::with_memory(IMAGES_MEMORY);
            self.steps = Decayed::with_memory(STEPS_MEMORY);
        }
        self.images.add(images as f64, seconds);
        self.steps.add(steps as f64, seconds);
        (self.step, self.at, self.calls) = (step, now.max(self.at), self.calls.saturating_add(1));
    }

    /// As [`Meter::eta_seconds`].
    pub fn eta_seconds(&self, step: u64, total: u64) -> Option<u64> {
        let left = total.saturating_sub(step);
        if left == 0 {
            return Some(0);
        }
        let rate = self.steps.per_second();
        // A cast of a float saturates.
        (rate > 0.0).then(|| (left as f64 / rate).ceil() as u64)
    }
}

/// Amount and time, both fading with time: their ratio is a mean over the last seconds, and a plain mean while less time
/// than that has passed.
#[derive(Clone, Debug)]
struct Decayed {
    memory: f64,
    amount: f64,
    seconds: f64,
}

impl Decayed {
    fn with_memory(memory: f64) -> Decayed {
        Decayed { memory, amount: 0.0, seconds: 0.0 }
    }

    fn add(&mut self, amount: f64, seconds: f64) {
        let kept = (-seconds / self.memory).exp();
        self.amount = self.amount * kept + amount;
        self.seconds = self.seconds * kept + seconds;
    }

    fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.amount / self.seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates after calls at these seconds, one step of 32 images each.
    fn after(seconds: impl IntoIterator<Item = f64>) -> Rates {
        let mut rates = Rates::new(100);
        for (i, second) in seconds.into_iter().enumerate() {
            rates.add(Duration::from_secs_f64(second), 101 + i as u64, 32);
        }
        rates
    }

    #[test]
    fn nothing_done_is_no_rate_and_no_end() {
        let rates = Rates::new(5);
        assert_eq!((rates.images.per_second(), rates.eta_seconds(5, 10)), (0.0, None));
        assert_eq!(rates.eta_seconds(10, 10), Some(0));
    }

    #[test]
    fn the_first_step_is_a_first_guess_and_does_not_weigh_afterwards() {
        assert_eq!(after([8.0]).images.per_second(), 4.0);
        let rates = after([8.0, 8.5]);
        assert_eq!((rates.images.per_second(), rates.eta_seconds(102, 112)), (64.0, Some(5)));
    }

    #[test]
    fn a_steady_run_has_a_steady_rate_and_an_exact_end() {
        let rates = after((0..1000).map(|i| f64::from(i) * 0.25));
        assert!((rates.images.per_second() - 128.0).abs() < 1e-6);
        assert_eq!(rates.eta_seconds(1_100, 1_500), Some(100));
    }

    #[test]
    fn a_change_shows_in_the_rate_within_a_minute() {
        let fast = (0..400).map(|i| f64::from(i) * 0.25);
        let slow = (1..=60).map(|i| 100.0 + f64::from(i));
        let rate = after(fast.chain(slow)).images.per_second();
        assert!((32.0..35.0).contains(&rate), "{rate}");
    }

    #[test]
    fn the_time_left_includes_pauses_that_come_again() {
        // Ten steps in a second, then validation for a second, over and over: five steps per second.
        let seconds = (0..100).flat_map(|epoch| (1..=10).map(move |i| f64::from(epoch) * 2.0 + f64::from(i) * 0.1));
        let left = after(seconds).eta_seconds(1_100, 2_100).unwrap();
        assert!((190..=215).contains(&left), "{left}");
    }

    #[test]
    fn a_clock_that_stands_still_divides_by_nothing() {
        let rates = after([1.0, 1.0, 1.0]);
        assert_eq!((rates.images.per_second(), rates.eta_seconds(103, 104)), (0.0, None));
    }
}
