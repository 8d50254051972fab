//! How a model is trained: epochs, batch, precision, regularisation. The optimizer and the schedule have files of their own.

use std::collections::BTreeMap;

use kube::KubeSchema;
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
    /// Ends the training when the model no longer gets better. The model that is written is that of the best epoch in
    /// any case: the one with the best accuracy, or what is watched here.
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
    /// How much the images of each class count in the training's loss. The validation counts all alike.
    pub class_weights: ClassWeights,
    /// Decay, for each step, of a moving average of the weights, which is then what is validated and saved. If absent:
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.5, max = 0.999_999))]
    pub ema_decay: Option<f64>,
    /// How the probability is chosen from which on an image belongs to the second of two classes: the best one on the
    /// validation images. With more classes the most probable one is decided for.
    pub threshold: DecisionThreshold,
    /// Whether batch norms take their statistics over the batches of all processes, instead of each over its own. For
    /// small batches; it costs two exchanges between the processes for each batch norm and step.
    pub sync_batch_norm: bool,
    /// Number format in which gradients travel between processes. With 16 bits half as much travels; the sums are then of
    /// 16 bits too.
    pub gradient_compression: GradientCompression,
    /// Seconds that processes wait for one that does not come to an exchange of gradients. Then all end, and another
    /// attempt starts. More than the slowest step, validation or writing of a checkpoint takes.
    #[schemars(range(min = 10, max = 86_400))]
    pub collective_timeout_seconds: u32,
    /// Seed of everything random: initial weights, split, order and augmentation.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub seed: u32,
    /// Only algorithms that give the same bits each time, with as many processes and on GPUs of one kind, at some cost in
    /// speed. A training that needs another one ends. On CPUs it is always so.
    pub deterministic: bool,
    /// Whether a training of one process on a GPU hands each step over as a whole, once it has made a few: small steps are then
    /// faster, and a step's memory is kept. The report says whether it was so, and why not.
    pub cuda_graphs: CudaGraphs,
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
            class_weights: ClassWeights::default(),
            ema_decay: None,
            threshold: DecisionThreshold::default(),
            sync_batch_norm: false,
            gradient_compression: GradientCompression::None,
            collective_timeout_seconds: 300,
            seed: 0,
            deterministic: false,
            cuda_graphs: CudaGraphs::Auto,
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

/// How much the images of each class count in the training's loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default = "ClassWeights::default")]
#[x_kube(validation = Rule::new("self.mode != 'Given' || has(self.weights)")
    .message("classWeights of mode Given needs weights: a number for each class that counts more or less than 1")
    .field_path(".weights"))]
pub struct ClassWeights {
    /// Where the weights come from.
    pub mode: ClassWeighting,
    /// Weight of each class, by its name, where mode is Given. A class that is not named has weight 1.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::class_weights")]
    pub weights: BTreeMap<String, f64>,
}

/// Where the weights of classes come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClassWeighting {
    /// All images count alike.
    #[default]
    None,
    /// All classes count alike: images / (classes * images of the class).
    Balanced,
    /// As given in weights.
    Given,
}

/// How the decision threshold is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DecisionThreshold {
    /// What it makes as large as it can.
    pub by: ThresholdBy,
    /// Where by is Precision: the least recall. Where by is Recall: the least precision. Without such a bound the one is
    /// perfect where the other one is nothing.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub at_least: f64,
}

impl Default for DecisionThreshold {
    fn default() -> Self {
        DecisionThreshold { by: ThresholdBy::default(), at_least: 0.5 }
    }
}

/// What a decision threshold makes as large as it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ThresholdBy {
    /// Youden's J: the share of the second class that is found, less the share of the first that is taken for it. It does
    /// not depend on how many images of each class there are.
    #[default]
    Youden,
    /// The harmonic mean of precision and recall of the second class.
    F1,
    /// Of the images taken for the second class, the share that is of it.
    Precision,
    /// Of the images of the second class, the share that is found.
    Recall,
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
    /// 16 bits with scaled gradients. Steps whose gradients overflow are left out while the scale is found. CPUs take
    /// longer with it than with Float32.
    Float16,
}

/// Number format in which gradients travel between processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GradientCompression {
    /// That of the weights: 32 bits.
    #[default]
    None,
    /// 16 bits with a precision of 11: for gradients between 6e-8 and 65504, which larger ones overflow.
    Float16,
    /// 16 bits with the range of 32 and a precision of 8.
    BFloat16,
}

/// How the steps of a training come to its GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CudaGraphs {
    /// As a whole, by a CUDA graph, where the training allows it and the GPU has the memory.
    #[default]
    Auto,
    /// One operation after the other.
    Never,
}
