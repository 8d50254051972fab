//! What waits for the network, and when it goes: the rule of dynamic batching, without threads or clocks of its own.
//!
//! A batch goes when it is full, when its first image has waited as long as it may, or when as many images are there as
//! went last time. The last clause is what keeps the wait from costing anything: one client that asks again and again
//! makes batches of one, which never wait, and as many clients as ask at once are waited for together.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How images are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) struct Gathering {
    /// Most images of a batch, at least 1.
    pub(in crate::serve) most: usize,
    /// How long the first image of a batch waits for others at most.
    pub(in crate::serve) delay: Duration,
}

/// When a batch may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// There is nothing to do.
    Never,
    /// It may go; its first image has waited since then.
    Since(Instant),
    /// Not before this time, unless more comes.
    At(Instant),
}

/// Images that wait, in the order of their coming.
#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: VecDeque<(Instant, T)>,
    gathering: Gathering,
    /// Images of the last batch.
    last: usize,
}

impl<T> Queue<T> {
    pub(super) fn new(gathering: Gathering) -> Queue<T> {
        Queue { waiting: VecDeque::new(), gathering, last: 1 }
    }

    pub(super) fn push(&mut self, now: Instant, item: T) {
        self.waiting.push_back((now, item));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn due(&self, now: Instant) -> Due {
        let Some(&(first, _)) = self.waiting.front() else { return Due::Never };
        let enough = self.last.clamp(1, self.gathering.most);
        let latest = first + self.gathering.delay;
        if self.waiting.len() >= enough || latest <= now { Due::Since(first) } else { Due::At(latest) }
    }

    /// The next batch, with the times since when each of it has waited. What nobody waits for any more is left out.
    pub(super) fn take(&mut self, is_wanted: impl Fn(&T) -> bool) -> Vec<(Instant, T)> {
        let mut batch = Vec::with_capacity(self.gathering.most.min(self.waiting.len()));
        while batch.len() < self.gathering.most
            && let Some((since, item)) = self.waiting.pop_front()
        {
            if is_wanted(&item) {
                batch.push((since, item));
            }
        }
        self.last = batch.len();
        batch
    }

    /// Drops what nobody waits for any more.
    pub(super) fn purge(&mut self, is_wanted: impl Fn(&T) -> bool) {
        self.waiting.retain(|(_, item)| is_wanted(item));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DELAY: Duration = Duration::from_millis(2);

    fn queue(most: usize) -> Queue<u32> {
        Queue::new(Gathering { most, delay: DELAY })
    }

    fn numbers(batch: Vec<(Instant, u32)>) -> Vec<u32> {
        batch.into_iter().map(|(_, number)| number).collect()
    }

    #[test]
    fn one_client_never_waits() {
        let (mut queue, now) = (queue(4), Instant::now());
        assert_eq!(queue.due(now), Due::Never);
        for round in 0..3 {
            queue.push(now, round);
            assert_eq!(queue.due(now), Due::Since(now));
            assert_eq!(numbers(queue.take(|_| true)), [round]);
        }
    }

    #[test]
    fn as_many_as_last_time_are_waited_for_and_no_longer_than_allowed() {
        let (mut queue, now) = (queue(4), Instant::now());
        (0..3).for_each(|number| queue.push(now, number));
        assert_eq!(numbers(queue.take(|_| true)), [0, 1, 2]);
        queue.push(now, 3);
        assert_eq!(queue.due(now), Due::At(now + DELAY));
        queue.push(now + DELAY / 2, 4);
        assert_eq!(queue.due(now + DELAY / 2), Due::At(now + DELAY));
        assert_eq!(queue.due(now + DELAY), Due::Since(now));
        queue.push(now + DELAY / 2, 5);
        assert_eq!(queue.due(now + DELAY / 2), Due::Since(now));
    }

    #[test]
    fn a_batch_is_no_larger_than_allowed_and_leaves_out_what_nobody_waits_for() {
        let (mut queue, now) = (queue(3), Instant::now());
        (0..6).for_each(|number| queue.push(now, number));
        assert_eq!(numbers(queue.take(|number| number % 2 == 1)), [1, 3, 5]);
        assert!(queue.is_empty());
        (0..4).for_each(|number| queue.push(now, number));
        queue.purge(|number| *number > 2);
        assert_eq!(numbers(queue.take(|_| true)), [3]);
        assert_eq!(numbers(queue.take(|_| true)), [0; 0]);
    }

    proptest! {
        /// Whatever comes when: each image goes once, in order, in batches within the bounds, and no later than allowed.
        #[test]
        fn each_image_goes_once_in_order_and_in_time(
            gaps in prop::collection::vec(0_u64..3_000, 1..100), most in 1_usize..9, delay in 0_u64..4_000,
        ) {
            let delay = Duration::from_micros(delay);
            let mut queue = Queue::new(Gathering { most, delay });
            let mut now = Instant::now();
            let mut gone = Vec::new();
            for (number, gap) in gaps.iter().enumerate() {
                let next = now + Duration::from_micros(*gap);
                // The executor wakes at the time that it was told, or when something comes.
                while let Due::At(time) = queue.due(now) && time <= next {
                    now = time;
                    let batch = queue.take(|_| true);
                    prop_assert!((1..=most).contains(&batch.len()));
                    prop_assert!(batch.iter().all(|(since, _)| now.duration_since(*since) <= delay));
                    gone.extend(numbers(batch));
                }
                now = next;
                queue.push(now, number as u32);
                while let Due::Since(_) = queue.due(now) {
                    let batch = queue.take(|_| true);
                    prop_assert!((1..=most).contains(&batch.len()));
                    gone.extend(numbers(batch));
                }
            }
            gone.extend(std::iter::from_fn(|| Some(numbers(queue.take(|_| true))).filter(|batch| !batch.is_empty())).flatten());
            prop_assert_eq!(gone, (0..gaps.len() as u32).collect::<Vec<_>>());
        }
    }
}
