//! The kind TrainingJob: its spec, and the recipe that a spec comes to.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::infrastructure::Infrastructure;
use crate::model::{Model, ModelRef, Task};
use crate::run_policy::{RunPolicy, Scheduling};
use crate::status::TrainingJobStatus;
use crate::training::Training;

/// What to train, on what, how, where, and where to put it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "TrainingJob",
    plural = "trainingjobs",
    shortname = "tj",
    category = "trainyard",
    namespaced,
    status = "TrainingJobStatus",
    derive = "PartialEq",
    doc = "Trains a vision model: on one CPU, or on one GPU for each process on as many nodes as it takes.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Running')].reason", description = "Why it runs or does not, in a word"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress.percent", description = "Per cent of all steps"),
    printcolumn(name = "Loss", type_ = "number", json_path = ".status.progress.loss", description = "Mean loss over the last steps"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.placement.gpus"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts"),
    printcolumn(name = "ETA", type_ = "integer", json_path = ".status.progress.etaSeconds", priority = 1, description = "Seconds left"),
    printcolumn(name = "Runtime", type_ = "string", json_path = ".status.placement.runtime", priority = 1),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.placement.node", priority = 1, description = "Node of rank 0"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rules::frozen_field("task"),
    validation = crate::rules::frozen_block("model"),
    validation = crate::rules::frozen_block("data"),
    validation = crate::rules::frozen_block("training"),
    validation = crate::rules::frozen_field("infrastructure"),
    validation = crate::rules::frozen_field("scheduling"),
    validation = crate::rules::frozen_field("output"),
    validation = crate::rules::frozen_block("retrainFrom"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.data) || has(self.retrainFrom)")
        .message("data is missing: give data.uri, or retrainFrom to train on the data of an earlier job").field_path(".data"),
    validation = Rule::new("!(has(self.retrainFrom) && has(self.model) && has(self.model.initialWeights))")
        .message("retrainFrom and model.initialWeights both name the first weights: leave one of them out")
        .field_path(".model.initialWeights"),
    validation = crate::rules::exit_codes_of_a_custom_image(),
    validation = crate::rules::managed_by_is_immutable(),
)]
pub struct TrainingJobSpec {
    /// What the images are turned into.
    #[serde(default)]
    pub task: Task,
    /// The network and the weights it starts from. If absent: those of retrainFrom, or a resnet18 from scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// The images to train on. If absent: those of retrainFrom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// How the model is trained. If absent: as in retrainFrom, or by the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// Where it runs.
    #[serde(default)]
    pub infrastructure: Infrastructure,
    /// How the pods get their places.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// How long, how often and when the job runs. All of it can be changed at any time.
    #[serde(default)]
    pub run_policy: RunPolicy,
    /// Where the model goes.
    pub output: TrainingOutput,
    /// A trained model to go on from. Its weights are the first ones, and its model, data and training are taken
    /// whole where this job doesn't give them. The claims that the data of a trainingJob lies on are mounted by themselves; of a
    /// model that is named by its uri nobody knows them: give data if it lies on a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrain_from: Option<ModelRef>,
    /// Name of the controller that runs this job. If absent: Trainyard. With another one, Trainyard leaves the job alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::controller_name")]
    pub managed_by: Option<String>,
}

/// Where the model goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainingOutput {
    /// Folder that becomes the model folder. It belongs to the first job that writes to it. A job of the same name that is created
    /// later, after that one was deleted, goes on from the checkpoints there unless the model is finished.
    #[schemars(schema_with = "crate::schema::writable_uri")]
    pub uri: String,
    /// When the state of the training is saved on the way: every 600 seconds if nothing else is given.
    #[serde(default)]
    pub checkpoint: Checkpoint,
}

/// When the state of the training is saved on the way. If neither everySteps nor everySeconds is given: every 600 seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default = "Checkpoint::default")]
#[x_kube(validation = Rule::new("!(has(self.everySteps) && has(self.everySeconds))")
    .message("give everySteps or everySeconds, not both"))]
pub struct Checkpoint {
    /// Optimizer steps between two checkpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub every_steps: Option<u32>,
    /// Seconds between two checkpoints; 600 if neither this nor everySteps is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub every_seconds: Option<u32>,
    /// Checkpoints that are kept, the newest ones.
    #[schemars(range(min = 1, max = 1000))]
    pub keep: u32,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Checkpoint { every_steps: None, every_seconds: None, keep: 3 }
    }
}

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointInterval {
    /// After so many optimizer steps.
    Steps(u32),
    /// After so many seconds.
    Seconds(u32),
}

impl Checkpoint {
    /// When a checkpoint is due.
    pub fn interval(&self) -> CheckpointInterval {
        match (self.every_steps, self.every_seconds) {
            (Some(steps), _) => CheckpointInterval::Steps(steps),
            (None, seconds) => CheckpointInterval::Seconds(seconds.unwrap_or(600)),
        }
    }
}

/// What a spec comes to once nothing is left to be taken from elsewhere: this is what a trainer works by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recipe {
    /// What the images are turned into.
    pub task: Task,
    /// The network and the weights it starts from.
    pub model: Model,
    /// The images to train on.
    pub data: Data,
    /// How the model is trained.
    pub training: Training,
}

/// A spec names no data, and neither does what it retrains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.data is missing, and the model to retrain names none: give data.uri")]
pub struct DataMissing;

impl TrainingJobSpec {
    /// What this spec comes to. `parent` is the recipe of the model that [`retrain_from`](Self::retrain_from) names, as
    /// its `model.json` has it; each block that this spec doesn't give is taken from there whole.
    ///
    /// # Errors
    /// [`DataMissing`] if neither has data.
    pub fn recipe(&self, parent: Option<&Recipe>) -> Result<Recipe, DataMissing> {
        Ok(Recipe {
            task: self.task,
            model: self.model.clone().or_else(|| parent.map(|p| p.model.clone())).unwrap_or_default(),
            data: self.data.clone().or_else(|| parent.map(|p| p.data.clone())).ok_or(DataMissing)?,
            training: self.training.clone().or_else(|| parent.map(|p| p.training.clone())).unwrap_or_default(),
        })
    }
}
