//! Blends the images and labels of a batch: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), as torchvision's v2
//! transforms of these names: each image with the one before it in the batch.

use tch::{Kind, TchError, Tensor};

use super::Targets;
use crate::data::{Random, Use};
use crate::torch::{TorchError, to_channels_last};

/// How batches are blended: at random, as a function of the seed, the step, the rank and the pass alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blend {
    /// Parameter of the Beta distribution of mixup; 0: off.
    pub mixup: f64,
    /// The same of CutMix. Where both are on, each batch takes one of them, each as likely.
    pub cutmix: f64,
    /// Seed of the draws.
    pub seed: u64,
}

/// How one batch is blended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mixture {
    /// Everything: this share of the image itself, the rest of the one before.
    Mixup {
        /// Share of the image itself, 0 to 1.
        share: f64,
    },
    /// A rectangle of the one before, in pixels; right and bottom are not in it.
    Cutmix {
        /// Left edge.
        left: i64,
        /// Upper edge.
        top: i64,
        /// Right edge.
        right: i64,
        /// Lower edge.
        bottom: i64,
    },
}

impl Blend {
    /// Whether there is anything to blend.
    pub fn is_on(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0
    }

    /// How a pass of a step is blended: images of `side` pixels a side. None where nothing is on.
    pub fn draw(&self, step: u64, rank: u32, pass: u32, side: u32) -> Option<Mixture> {
        let mut random = Random::new(Use::Blend, self.seed, step, (u64::from(rank) << 32) | u64::from(pass));
        let mixes = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (false, false) => return None,
            (true, true) => random.below(2) == 0,
            (mixes, _) => mixes,
        };
        if mixes {
            return Some(Mixture::Mixup { share: random.beta(self.mixup) });
        }
        let share = random.beta(self.cutmix);
        let middle = [random.below(u64::from(side)), random.below(u64::from(side))];
        Some(Mixture::rectangle(share, middle, side))
    }
}

impl Mixture {
    /// CutMix's rectangle around `middle` (x, y) that leaves `share` of the image, cut off at the edges.
    pub fn rectangle(share: f64, middle: [u64; 2], side: u32) -> Mixture {
        let half = (0.5 * (1.0 - share).sqrt() * f64::from(side)) as i64;
        let [x, y] = middle.map(|place| place as i64);
        let low = |place: i64| (place - half).max(0);
        let high = |place: i64| (place + half).min(i64::from(side));
        Mixture::Cutmix { left: low(x), top: low(y), right: high(x), bottom: high(y) }
    }

    /// Blends images of shape `[batch, 3, side, side]` and their classes, int64 of shape `[batch]`.
    ///
    /// # Errors
    /// Shapes don't fit, or memory ran out.
    pub fn apply(&self, images: &Tensor, labels: &Tensor, classes: i64) -> Result<(Tensor, Targets), TorchError> {
        let before = images.f_roll([1], [0])?;
        let (blended, share) = match *self {
            Mixture::Mixup { share } => (before.f_mul_scalar(1.0 - share)?.f_add(&images.f_mul_scalar(share)?)?, share),
            Mixture::Cutmix { left, top, right, bottom } => {
                let mut blended = images.f_empty_like()?;
                blended.f_copy_(images)?;
                let cut = |of: &Tensor| of.f_narrow(2, top, bottom - top)?.f_narrow(3, left, right - left);
                cut(&blended)?.f_copy_(&cut(&before)?)?;
                let side = images.size()[3];
                (blended, 1.0 - ((right - left) * (bottom - top)) as f64 / (side * side) as f64)
            }
        };
        Ok((to_channels_last(&blended)?, Targets::Shares(shares(labels, classes, share)?)))
    }
}

/// The classes' shares of blended labels.
fn shares(labels: &Tensor, classes: i64, share: f64) -> Result<Tensor, TchError> {
    let own = labels.f_one_hot(classes)?.f_to_kind(Kind::Float)?;
    own.f_roll([1], [0])?.f_mul_scalar(1.0 - share)?.f_add(&own.f_mul_scalar(share)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Blend = Blend { mixup: 0.2, cutmix: 1.0, seed: 7 };

    #[test]
    fn a_draw_is_a_function_of_step_rank_and_pass() {
        let draws: Vec<_> = (0..200).map(|step| BOTH.draw(step, 0, 0, 32).unwrap()).collect();
        assert_eq!(BOTH.draw(3, 0, 0, 32), Some(draws[3]));
        assert_ne!(BOTH.draw(3, 1, 0, 32), Some(draws[3]));
        assert_ne!(BOTH.draw(3, 0, 1, 32), Some(draws[3]));
        let mixed = draws.iter().filter(|draw| matches!(draw, Mixture::Mixup { .. })).count();
        assert!((70..130).contains(&mixed), "{mixed} of 200");
        assert_eq!(Blend { mixup: 0.0, cutmix: 0.0, seed: 7 }.draw(0, 0, 0, 32), None);
        let only = Blend { mixup: 0.0, ..BOTH };
        assert!((0..50).all(|step| matches!(only.draw(step, 0, 0, 32), Some(Mixture::Cutmix { .. }))));
    }

    #[test]
    fn a_rectangle_is_cut_off_at_the_edges_and_may_be_empty() {
        let rectangle = |left, top, right, bottom| Mixture::Cutmix { left, top, right, bottom };
        assert_eq!(Mixture::rectangle(0.75, [16, 16], 32), rectangle(8, 8, 24, 24));
        assert_eq!(Mixture::rectangle(0.75, [0, 31], 32), rectangle(0, 23, 8, 32));
        assert_eq!(Mixture::rectangle(1.0, [3, 4], 32), rectangle(3, 4, 3, 4));
    }
}
