//! Random numbers that are a pure function of a few integers, the same on every machine, in every version, for ever:
//! SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014). A checkpoint holds no state of a
//! generator; whoever knows the seed, the epoch and the sample draws the same numbers.

/// 2^64 divided by the golden ratio: the generator's increment.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// What numbers are drawn for: two uses with the same integers must not see the same numbers.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// The order of the samples in an epoch.
    Order = 1,
    /// The variation of one sample in one epoch.
    Augment = 2,
    /// Which samples are held out.
    Split = 3,
}

/// A generator.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// The generator for this use, seed and pair of integers.
    pub(super) fn new(what: Use, seed: u64, first: u64, second: u64) -> Self {
        let state = [what as u64, first, second]
            .into_iter()
            .fold(mix(seed.wrapping_add(GAMMA)), |state, part| mix((state ^ part).wrapping_add(GAMMA)));
        Self { state }
    }

    /// The next 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number from `low` (inclusive) to `high` (exclusive), with 53 random bits; `low` if they are equal.
    pub(super) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        low + (high - low) * unit
    }

    /// An integer below `bound`, each equally likely (Lemire: "Fast Random Integer Generation in an Interval", 2019).
    /// `bound` is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Puts the items in a random order, each order equally likely: Fisher and Yates, from the last item to the second.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// The generator's output function: a bijection in which each input bit changes each output bit with probability 1/2.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The reference implementation's first numbers from the state 1234567.
        let mut random = Random { state: 1_234_567 };
        let drawn: Vec<u64> = (0..5).map(|_| random.next()).collect();
        let expected =
            [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821];
        assert_eq!(drawn, expected);
    }

    #[test]
    fn each_use_and_each_integer_draws_other_numbers() {
        let first = |what, seed, a, b| Random::new(what, seed, a, b).next();
        let drawn = std::collections::BTreeSet::from([
            first(Use::Order, 0, 0, 0),
            first(Use::Augment, 0, 0, 0),
            first(Use::Split, 0, 0, 0),
            first(Use::Order, 1, 0, 0),
            first(Use::Order, 0, 1, 0),
            first(Use::Order, 0, 0, 1),
        ]);
        assert_eq!(drawn.len(), 6);
    }

    #[test]
    fn numbers_below_a_bound_are_equally_likely() {
        let mut random = Random::new(Use::Order, 7, 0, 0);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[random.below(6) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
    }
}
