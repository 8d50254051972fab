//! The learning rate of each step: a pure function of the schedule, the step, and what a plateau schedule has seen.

use std::f64::consts::PI;

use crds::schedule::ScheduleSettings;
use serde::{Deserialize, Serialize};

/// By what share a loss must be below the least one to count as fallen: `ReduceLROnPlateau`'s default threshold.
const PLATEAU_THRESHOLD: f64 = 1e-4;
/// A reduction by no more than this is left out: `ReduceLROnPlateau`'s default.
const LEAST_REDUCTION: f64 = 1e-8;

/// The course of the learning rate over a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Rate after the warm-up.
    pub base: f64,
    /// Steps over which the rate rises linearly from 0 to `base`.
    pub warmup_steps: u64,
    /// Optimizer steps of an epoch.
    pub steps_per_epoch: u64,
    /// Optimizer steps of the training.
    pub total_steps: u64,
    /// What follows the warm-up.
    pub settings: ScheduleSettings,
}

/// What a plateau schedule has seen of the epochs before; nothing for other schedules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Plateau {
    /// Least validation loss, none before the first.
    #[serde(with = "super::exact")]
    best: Option<f64>,
    /// Epochs since then.
    bad_epochs: u32,
    /// Reductions of the rate.
    reductions: u32,
}

impl Schedule {
    /// The end of an epoch with its validation loss: `ReduceLROnPlateau.step` in its mode `min`. Schedules of other
    /// names look away.
    pub fn observe(&self, plateau: &mut Plateau, loss: f64) {
        let ScheduleSettings::Plateau { patience, .. } = self.settings else { return };
        if plateau.best.is_none_or(|best| loss < best * (1.0 - PLATEAU_THRESHOLD)) {
            plateau.best = Some(loss);
            plateau.bad_epochs = 0;
        } else {
            plateau.bad_epochs += 1;
        }
        if plateau.bad_epochs > patience {
            plateau.reductions += 1;
            plateau.bad_epochs = 0;
        }
    }

    /// The rate of step `step`, from 0.
    ///
    /// Warm-up: `base · (step + 1) / warmup_steps`. Step, MultiStep and Exponential as the classes of torch.optim of
    /// that name, by the epoch that the step belongs to. Cosine: `min + (base - min) · (1 + cos(π t / T)) / 2`
    /// (Loshchilov and Hutter 2017), with t and T the steps done and in all since the warm-up. Plateau: what
    /// [`observe`](Self::observe) has come to; a warm-up under way rises to that.
    pub fn rate(&self, step: u64, plateau: &Plateau) -> f64 {
        if step < self.warmup_steps {
            return self.after_reductions(plateau) * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let epoch = step / self.steps_per_epoch.max(1);
        match &self.settings {
            ScheduleSettings::Constant => self.base,
            ScheduleSettings::Step { step_epochs, gamma } => {
                self.base * gamma.powi((epoch / u64::from(*step_epochs).max(1)) as i32)
            }
            ScheduleSettings::MultiStep { milestones, gamma } => {
                let passed = milestones.iter().filter(|&&milestone| u64::from(milestone) <= epoch).count();
                self.base * gamma.powi(passed as i32)
            }
            ScheduleSettings::Exponential { gamma } => self.base * gamma.powi(epoch as i32),
            ScheduleSettings::Cosine { min_learning_rate } => {
                let done = (step - self.warmup_steps) as f64;
                let all = (self.total_steps.saturating_sub(self.warmup_steps)).max(1) as f64;
                min_learning_rate + (self.base - min_learning_rate) * (1.0 + (PI * done / all).cos()) / 2.0
            }
            ScheduleSettings::Plateau { .. } => self.after_reductions(plateau),
        }
    }

    /// The base rate after a plateau schedule's reductions, each to gamma times what it was, and not below the least.
    fn after_reductions(&self, plateau: &Plateau) -> f64 {
        let ScheduleSettings::Plateau { gamma, min_learning_rate, .. } = self.settings else { return self.base };
        (0..plateau.reductions).fold(self.base, |rate, _| {
            let reduced = (rate * gamma).max(min_learning_rate);
            if rate - reduced > LEAST_REDUCTION { reduced } else { rate }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(settings: ScheduleSettings) -> Schedule {
        Schedule { base: 1.0, warmup_steps: 4, steps_per_epoch: 10, total_steps: 104, settings }
    }

    #[test]
    fn rates_follow_their_formulas() {
        let cosine = ScheduleSettings::Cosine { min_learning_rate: 0.2 };
        let table = [
            (ScheduleSettings::Constant, 0, 0.25),
            (ScheduleSettings::Constant, 3, 1.0),
            (ScheduleSettings::Constant, 99, 1.0),
            (ScheduleSettings::Step { step_epochs: 3, gamma: 0.1 }, 29, 1.0),
            (ScheduleSettings::Step { step_epochs: 3, gamma: 0.1 }, 30, 0.1),
            (ScheduleSettings::MultiStep { milestones: vec![2, 5], gamma: 0.5 }, 19, 1.0),
            (ScheduleSettings::MultiStep { milestones: vec![2, 5], gamma: 0.5 }, 20, 0.5),
            (ScheduleSettings::MultiStep { milestones: vec![2, 5], gamma: 0.5 }, 50, 0.25),
            (ScheduleSettings::Exponential { gamma: 0.5 }, 25, 0.25),
            (cosine.clone(), 4, 1.0),
            (cosine.clone(), 54, 0.6),
            (cosine, 104, 0.2),
        ];
        for (settings, step, rate) in table {
            let got = schedule(settings.clone()).rate(step, &Plateau::default());
            assert!((got - rate).abs() < 1e-12, "{settings:?} at {step}: {got} is not {rate}");
        }
    }

    #[test]
    fn a_training_shorter_than_its_warm_up_only_warms_up() {
        let short = Schedule { total_steps: 3, ..schedule(ScheduleSettings::Cosine { min_learning_rate: 0.0 }) };
        assert_eq!((0..3).map(|step| short.rate(step, &Plateau::default())).collect::<Vec<_>>(), [0.25, 0.5, 0.75]);
    }

    #[test]
    fn a_plateau_is_noticed_after_its_patience_and_not_below_the_least_rate() {
        let settings = ScheduleSettings::Plateau { gamma: 0.1, patience: 1, min_learning_rate: 0.05 };
        let schedule = schedule(settings);
        let mut plateau = Plateau::default();
        let mut rates = Vec::new();
        // Less by under a ten thousandth has not fallen.
        for loss in [2.0, 1.0, 0.99995, 1.5, 0.5, 0.6, 0.6, 0.6, 0.6] {
            schedule.observe(&mut plateau, loss);
            let text = serde_json::to_string(&plateau).unwrap();
            plateau = serde_json::from_str(&text).unwrap();
            rates.push(schedule.rate(50, &plateau));
        }
        assert_eq!(rates, [1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05]);
        assert_eq!(schedule.rate(1, &plateau), 0.025, "a warm-up rises to the reduced rate");
    }
}
