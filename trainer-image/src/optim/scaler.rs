//! Scales losses so that gradients of 16 bits neither vanish nor overflow: the algorithm and the constants of
//! `torch.amp.GradScaler`. The decision is made on the host, which waits for the gradients of each step for that; or by a GPU
//! itself ([`DeviceScale`](super::DeviceScale)).

use serde::{Deserialize, Serialize};

/// The scale at the start.
const START: f32 = 65_536.0;
/// What the scale is multiplied by after so many good steps in a row.
pub(super) const GROWTH: f32 = 2.0;
/// What it is multiplied by after a step whose gradients overflowed.
pub(super) const BACKOFF: f32 = 0.5;
/// Good steps in a row after which the scale grows.
const INTERVAL: u32 = 2000;
/// A scale below this no longer helps: 2^-24 is the least number that 16 bits have.
const LEAST: f32 = 1.0 / 16_777_216.0;

/// The scale, and how it came to be: plain data for a checkpoint. The scale is a power of two, which JSON keeps exactly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GradientScaler {
    scale: f32,
    good_steps: u32,
    interval: u32,
}

impl Default for GradientScaler {
    fn default() -> Self {
        GradientScaler::with_interval(INTERVAL)
    }
}

impl GradientScaler {
    /// A scaler that grows after `interval` good steps in a row.
    pub fn with_interval(interval: u32) -> GradientScaler {
        GradientScaler { scale: START, good_steps: 0, interval: interval.max(1) }
    }

    /// What the loss is multiplied by before the backward pass.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Good steps in a row so far.
    pub(super) fn good_steps(&self) -> u32 {
        self.good_steps
    }

    /// Good steps in a row after which the scale grows.
    pub(super) fn interval(&self) -> u32 {
        self.interval
    }

    /// The same scaler elsewhere on its way.
    pub(super) fn at(&self, scale: f32, good_steps: u32) -> GradientScaler {
        GradientScaler { scale, good_steps, interval: self.interval }
    }

    /// What gradients are multiplied by before they are used.
    pub fn inverse(&self) -> f32 {
        (1.0 / f64::from(self.scale)) as f32
    }

    /// The end of a step. One whose gradients `overflowed` must not change the weights.
    pub fn update(&mut self, overflowed: bool) {
        if overflowed {
            self.scale *= BACKOFF;
            self.good_steps = 0;
            return;
        }
        self.good_steps += 1;
        if self.good_steps == self.interval {
            let grown = self.scale * GROWTH;
            if grown.is_finite() {
                self.scale = grown;
            }
            self.good_steps = 0;
        }
    }

    /// Whether gradients overflow at any scale: the loss has gone astray.
    pub fn is_exhausted(&self) -> bool {
        self.scale < LEAST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_at_an_overflow_and_doubles_after_good_steps_in_a_row() {
        let mut scaler = GradientScaler::with_interval(2);
        let mut scales = Vec::new();
        for overflowed in [true, false, true, false, false, false] {
            scaler.update(overflowed);
            scales.push(scaler.scale());
        }
        assert_eq!(scales, [32_768.0, 32_768.0, 16_384.0, 16_384.0, 32_768.0, 32_768.0]);
        let text = serde_json::to_string(&scaler).unwrap();
        assert_eq!(serde_json::from_str::<GradientScaler>(&text).unwrap(), scaler);
        assert_eq!(scaler.inverse() * scaler.scale(), 1.0);
    }

    #[test]
    fn a_scale_that_no_longer_helps_says_so_and_one_at_the_top_stays() {
        let mut scaler = GradientScaler::with_interval(1);
        (0..400).for_each(|_| scaler.update(false));
        assert!(scaler.scale().is_finite());
        let mut halvings = 0;
        let mut falling = GradientScaler::default();
        while !falling.is_exhausted() {
            falling.update(true);
            halvings += 1;
        }
        assert_eq!(halvings, 41, "from 2^16 to below 2^-24");
    }
}
