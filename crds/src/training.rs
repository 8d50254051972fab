//! How a model is trained: epochs, batch, precision, regularisation. The optimizer and the schedule have files of their own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::optimizer::Optimizer;
use crate::schedule::Schedule;

/// How the model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Training {
    /// Passes over the training images.
    #[schemars(range(min = 1, max = 100_000))]
    pub epochs: u32,
    /// Images in each step of each process, which is each GPU. A step of the job sees this many times the processes,
    /// times gradientAccumulation.
    #[schemars(range(min = 1, max = 65_536))]
    pub batch_size: u32,
    /// The optimizer and its hyperparameters.
    pub optimizer: Optimizer,
    /// How the learning rate goes on after the warm-up.
    pub schedule: Schedule,
    /// Optimizer steps over which the learning rate rises linearly from 0 to its value.
    #[schemars(range(min = 0, max = 10_000_000))]
    pub warmup_steps: u32,
    /// Ends the training when the model no longer gets better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Number format of convolutions and matrix products. Weights and their updates are always Float32.
    pub precision: Precision,
    /// Batches whose gradients are summed up before each optimizer step.
    #[schemars(range(min = 1, max = 4096))]
    pub gradient_accumulation: u32,
    /// Largest norm of all gradients together; longer ones are scaled down to it. If absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.000_001, max = 1_000_000.0))]
    pub gradient_clip_norm: Option<f64>,
    /// Share of the target's probability that is spread over all classes.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub label_smoothing: f64,
    /// Decay, for each step, of a moving average of the weights, which is then what is validated and saved. If absent:
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.5, max = 0.999_999))]
    pub ema_decay: Option<f64>,
    /// Seed of everything random: initial weights, split, order and augmentation.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub seed: u32,
    /// Only algorithms that give the same bits each time, at some cost in speed on a GPU. On CPUs it is always so.
    pub deterministic: bool,
}

impl Default for Training {
    fn default() -> Self {
        Training {
            epochs: 30,
            batch_size: 32,
            optimizer: Optimizer::default(),
            schedule: Schedule::default(),
            warmup_steps: 0,
            early_stopping: None,
            precision: Precision::Float32,
            gradient_accumulation: 1,
            gradient_clip_norm: None,
            label_smoothing: 0.0,
            ema_decay: None,
            seed: 0,
            deterministic: false,
        }
    }
}

/// Ends the training when the model no longer gets better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EarlyStopping {
    /// Validation figure that is watched: Loss (smaller is better) or Accuracy (larger is better).
    pub metric: Metric,
    /// Epochs without improvement after which the training ends.
    #[schemars(range(min = 1, max = 100_000))]
    pub patience: u32,
    /// Change that counts as an improvement.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub min_delta: f64,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        EarlyStopping { metric: Metric::Loss, patience: 5, min_delta: 0.0 }
    }
}

/// A figure of the validation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Metric {
    /// Mean cross-entropy: smaller is better.
    #[default]
    Loss,
    /// Share of images whose most probable class is the right one: larger is better.
    Accuracy,
}

/// Number format of convolutions and matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// 32 bits.
    #[default]
    Float32,
    /// 16 bits with the range of 32: GPUs from Ampere on, and CPUs with avx512_bf16 or AMX.
    BFloat16,
    /// 16 bits with scaled gradients.
    Float16,
}
