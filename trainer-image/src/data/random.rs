//! Random numbers that are a pure function of a few integers, the same on every machine, in every version, for ever:
//! SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014). A checkpoint holds no state of a
//! generator; whoever knows the seed, the epoch and the sample draws the same numbers.

/// 2^64 divided by the golden ratio: the generator's increment.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// What numbers are drawn for: two uses with the same integers must not see the same numbers.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    /// The order of the samples in an epoch.
    Order = 1,
    /// The variation of one sample in one epoch.
    Augment = 2,
    /// Which samples are held out.
    Split = 3,
    /// How the images of a batch are blended.
    Blend = 4,
}

/// A generator.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// The generator for this use, seed and pair of integers.
    pub(crate) fn new(what: Use, seed: u64, first: u64, second: u64) -> Self {
        let state = [what as u64, first, second]
            .into_iter()
            .fold(mix(seed.wrapping_add(GAMMA)), |state, part| mix((state ^ part).wrapping_add(GAMMA)));
        Self { state }
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number from `low` (inclusive) to `high` (exclusive), with 53 random bits; `low` if they are equal.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        low + (high - low) * unit
    }

    /// An integer below `bound`, each equally likely (Lemire: "Fast Random Integer Generation in an Interval", 2019).
    /// `bound` is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// A number from 0 to 1 by the distribution Beta(`alpha`, `alpha`): the share of one in the sum of two numbers by the
    /// Gamma distribution. `alpha` is above 0.
    pub(crate) fn beta(&mut self, alpha: f64) -> f64 {
        let (one, other) = (self.log_gamma(alpha), self.log_gamma(alpha));
        1.0 / (1.0 + (other - one).exp())
    }

    /// The logarithm of a number by the distribution Gamma(`shape`, 1): Marsaglia and Tsang, "A Simple Method for Generating
    /// Gamma Variables", 2000. As a logarithm it does not vanish for small shapes.
    fn log_gamma(&mut self, shape: f64) -> f64 {
        // Theirs is for shapes from 1 on; a smaller one is brought there by their section 6.
        let spare = self.unit().ln() / shape;
        let d = shape + 1.0 - 1.0 / 3.0;
        loop {
            let normal = self.normal();
            let v = (1.0 + normal / (9.0 * d).sqrt()).powi(3);
            if v > 0.0 && self.unit().ln() < 0.5 * normal * normal + d - d * v + d * v.ln() {
                return (d * v).ln() + spare;
            }
        }
    }

    /// A number by the normal distribution: Box and Muller, 1958.
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A number above 0, up to 1.
    fn unit(&mut self) -> f64 {
        1.0 - self.uniform(0.0, 1.0)
    }

    /// Puts the items in a random order, each order equally likely: Fisher and Yates, from the last item to the second.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
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
    fn beta_numbers_have_the_mean_and_the_variance_of_their_distribution() {
        for alpha in [0.05, 0.2, 1.0, 4.0] {
            let mut random = Random::new(Use::Blend, 7, 0, 0);
            let drawn: Vec<f64> = (0..20_000).map(|_| random.beta(alpha)).collect();
            let mean = drawn.iter().sum::<f64>() / 20_000.0;
            let variance = drawn.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 20_000.0;
            assert!((mean - 0.5).abs() < 0.01, "{alpha}: mean {mean}");
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((variance - expected).abs() < 0.04 * expected, "{alpha}: variance {variance}, not {expected}");
        }
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
