//! How the learning rate changes over the training: what a manifest may say, and what it comes to.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default = "Schedule::default")]
#[x_kube(validation = Rule::new("self.name != 'MultiStep' || has(self.milestones)")
    .message("schedule MultiStep needs milestones: the epochs after which the rate is multiplied by gamma"))]
pub struct Schedule {
    /// Constant; Step: times gamma each stepEpochs epochs; MultiStep: times gamma after each epoch of milestones;
    /// Exponential: times gamma each epoch; Cosine: half a cosine wave down to minLearningRate; Plateau: times gamma when the
    /// validation loss has not fallen, by a ten thousandth of itself at least, for more than patience epochs.
    pub name: ScheduleName,
    /// Epochs between two reductions of Step; 30 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub step_epochs: Option<u32>,
    /// Epochs after which MultiStep reduces the rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(range(min = 1, max = 100_000)))]
    pub milestones: Option<Vec<u32>>,
    /// Factor of a reduction. If absent: Step, MultiStep and Plateau 0.1, Exponential 0.95.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.000_001, max = 1.0))]
    pub gamma: Option<f64>,
    /// Rate that Cosine ends at and Plateau stops at; 0 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub min_learning_rate: Option<f64>,
    /// Epochs without improvement that Plateau waits for; 10 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub patience: Option<u32>,
}

/// Name of a schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "Schedule::name says what each of them does")]
pub enum ScheduleName {
    Constant,
    Step,
    MultiStep,
    Exponential,
    #[default]
    Cosine,
    Plateau,
}

/// What a [`Schedule`] comes to: the values of its own parameters. Rates are absolute, epochs count from the training's start.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of Schedule")]
pub enum ScheduleSettings {
    Constant,
    Step { step_epochs: u32, gamma: f64 },
    MultiStep { milestones: Vec<u32>, gamma: f64 },
    Exponential { gamma: f64 },
    Cosine { min_learning_rate: f64 },
    Plateau { gamma: f64, patience: u32, min_learning_rate: f64 },
}

impl Schedule {
    /// The values that are used: what the manifest says, else the schedule's defaults. Milestones ascend, each once.
    pub fn settings(&self) -> ScheduleSettings {
        let gamma = self.gamma.unwrap_or(if self.name == ScheduleName::Exponential { 0.95 } else { 0.1 });
        let min_learning_rate = self.min_learning_rate.unwrap_or(0.0);
        match self.name {
            ScheduleName::Constant => ScheduleSettings::Constant,
            ScheduleName::Step => ScheduleSettings::Step { step_epochs: self.step_epochs.unwrap_or(30), gamma },
            ScheduleName::MultiStep => {
                let mut milestones = self.milestones.clone().unwrap_or_default();
                milestones.sort_unstable();
                milestones.dedup();
                ScheduleSettings::MultiStep { milestones, gamma }
            }
            ScheduleName::Exponential => ScheduleSettings::Exponential { gamma },
            ScheduleName::Cosine => ScheduleSettings::Cosine { min_learning_rate },
            ScheduleName::Plateau => {
                ScheduleSettings::Plateau { gamma, patience: self.patience.unwrap_or(10), min_learning_rate }
            }
        }
    }
}
