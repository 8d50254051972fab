//! How to load: threads, and how far ahead.

use std::thread;

use super::batch::Failures;

/// Bytes of pixels that are ready or in the making at most, but for two batches, which there always are.
pub(super) const AHEAD_BYTES: usize = 1 << 30;

/// How to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads, at least 1.
    pub threads: usize,
    /// Batches that are ready or in the making beside the one in use; at least as many as threads are kept busy by.
    pub prefetch: usize,
    /// What becomes of images that can't be used.
    pub failures: Failures,
}

impl Options {
    /// So many threads, each with a batch in the making and one ready; a failure ends it.
    pub fn new(threads: usize) -> Self {
        Self { threads, prefetch: 2 * threads, failures: Failures::Stop }
    }

    /// The same for batches of so many bytes, of which `most` may be taken, and in how many parts a batch is made so that each
    /// thread has as much to do as without a limit.
    pub(super) fn within(self, most: usize, batch_bytes: usize) -> (Self, usize) {
        let (threads, asked) = (self.threads.max(1), self.prefetch.max(1));
        let prefetch = asked.min((most / batch_bytes.max(1)).max(2));
        (Self { threads, prefetch, ..self }, if prefetch < asked { asked.div_ceil(prefetch) } else { 1 })
    }
}

/// The threads for each of `ranks` processes that share the cores which this one may use now, at least 1. A process that keeps
/// to a part of them asks before it does.
pub fn default_threads(ranks: usize) -> usize {
    share(thread::available_parallelism().map_or(1, usize::from), ranks)
}

/// The cores of each of `ranks` processes, at least 1.
fn share(cores: usize, ranks: usize) -> usize {
    (cores / ranks.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_ahead_keep_within_the_memory_and_every_thread_has_work() {
        const MIB: usize = 1 << 20;
        // Threads, bytes of a batch; batches ahead, parts of each.
        let table = [
            ((8, 37 * MIB), (16, 1)),
            ((64, 37 * MIB), (27, 5)),
            ((16, 300 * MIB), (3, 11)),
            ((16, 3000 * MIB), (2, 16)),
            ((1, 3000 * MIB), (2, 1)),
            ((4, 0), (8, 1)),
        ];
        for ((threads, bytes), expected) in table {
            let (options, parts) = Options::new(threads).within(AHEAD_BYTES, bytes);
            assert_eq!((options.prefetch, parts), expected, "{threads} threads, {bytes} bytes");
            assert!(options.prefetch * parts >= 2 * threads);
        }
    }

    #[test]
    fn processes_share_the_cores_and_each_has_one_at_least() {
        let table = [(64, 1, 64), (64, 8, 8), (64, 3, 21), (2, 8, 1), (1, 1, 1), (4, 0, 4)];
        for (cores, ranks, threads) in table {
            assert_eq!(share(cores, ranks), threads, "{cores} cores, {ranks} ranks");
        }
    }
}
