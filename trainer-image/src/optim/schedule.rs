//! The learning rate of each step: a pure function of the schedule and the step.

use std::f64::consts::PI;

use crds::schedule::ScheduleSettings;

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

impl Schedule {
    /// The rate of step `step`, from 0.
    ///
    /// Warm-up: `base · (step + 1) / warmup_steps`. Step, MultiStep and Exponential as the classes of torch.optim of
    /// that name, by the epoch that the step belongs to. Cosine: `min + (base - min) · (1 + cos(π t / T)) / 2`
    /// (Loshchilov and Hutter 2017), with t and T the steps done and in all since the warm-up.
    ///
    /// # Panics
    /// For a plateau schedule, whose rate isn't a function of the step: the trainer refuses it at its start.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.base * (step + 1) as f64 / self.warmup_steps as f64;
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
            ScheduleSettings::Plateau { .. } => unreachable!("refused before the training starts"),
        }
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
            let got = schedule(settings.clone()).rate(step);
            assert!((got - rate).abs() < 1e-12, "{settings:?} at {step}: {got} is not {rate}");
        }
    }

    #[test]
    fn a_training_shorter_than_its_warm_up_only_warms_up() {
        let short = Schedule { total_steps: 3, ..schedule(ScheduleSettings::Cosine { min_learning_rate: 0.0 }) };
        assert_eq!((0..3).map(|step| short.rate(step)).collect::<Vec<_>>(), [0.25, 0.5, 0.75]);
    }
}
