//! Random numbers, the same for the same seed. `tests/operator/model.rs` has this very file.

/// Random numbers by SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
pub(super) struct Dice(u64);

impl Dice {
    /// Those of one step of the history of a seed.
    pub(super) fn of_step(seed: u64, step: u64) -> Dice {
        Dice(Dice(seed).next() ^ step.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())]) }
    }
}
