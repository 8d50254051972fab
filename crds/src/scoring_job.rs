//! The kind ScoringJob: a trained model over a set of images, one row for each.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::{DataFormat, image_column, label_column};
use crate::infrastructure::Infrastructure;
use crate::model::ModelRef;
use crate::run_policy::{RunPolicy, Scheduling};
use crate::status::ScoringJobStatus;
use crate::training::Precision;

/// Which model over which images, where, and where the rows go.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "ScoringJob",
    plural = "scoringjobs",
    shortname = "sj",
    category = "trainyard",
    namespaced,
    status = "ScoringJobStatus",
    derive = "PartialEq",
    doc = "Scores a set of images by a trained model: one row for each image, exactly once.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Running')].reason", description = "Why it runs or does not, in a word"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress.percent", description = "Per cent of all rows"),
    printcolumn(name = "Rows", type_ = "integer", json_path = ".status.rows.written"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.rows.failed", description = "Rows with an error in the place of a result"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts"),
    printcolumn(name = "Rate", type_ = "number", json_path = ".status.progress.imagesPerSecond", priority = 1, description = "Rows per second"),
    printcolumn(name = "ETA", type_ = "integer", json_path = ".status.progress.etaSeconds", priority = 1, description = "Seconds left"),
    printcolumn(name = "Runtime", type_ = "string", json_path = ".status.placement.runtime", priority = 1),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.placement.node", priority = 1, description = "Node of shard 0"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rules::frozen_field("model"),
    validation = crate::rules::frozen_field("data"),
    validation = crate::rules::frozen_field("output"),
    validation = crate::rules::frozen_field("shards"),
    validation = crate::rules::frozen_field("batchSize"),
    validation = crate::rules::frozen_field("precision"),
    validation = crate::rules::frozen_field("topK"),
    validation = crate::rules::frozen_field("evaluate"),
    validation = crate::rules::frozen_field("infrastructure"),
    validation = crate::rules::frozen_field("scheduling"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.parallelism) || self.parallelism <= self.shards")
        .message("parallelism is larger than shards: there are no more pods than shards").field_path(".parallelism"),
    validation = Rule::new("self.infrastructure.nodes == 1")
        .message("a ScoringJob has one pod for each shard: leave infrastructure.nodes out and give shards")
        .field_path(".infrastructure.nodes"),
    validation = crate::rules::exit_codes_of_a_custom_image(),
    validation = crate::rules::managed_by_is_immutable(),
)]
pub struct ScoringJobSpec {
    /// The model that scores.
    pub model: ModelRef,
    /// The images to score.
    pub data: ScoringData,
    /// Where the rows go.
    pub output: ScoringOutput,
    /// Parts that the images are dealt out to, one pod each. The rows come out in the order of the images all the same.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 4096))]
    pub shards: u32,
    /// Pods at a time; as many as shards if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub parallelism: Option<u32>,
    /// Images that go through the network at a time.
    #[serde(default = "batch_size")]
    #[schemars(range(min = 1, max = 65_536))]
    pub batch_size: u32,
    /// Number format of convolutions and matrix products.
    #[serde(default)]
    pub precision: Precision,
    /// Classes of which each row has name and probability, the most probable ones first. A model of up to 1,000 classes gives
    /// each row the probability of every class besides.
    #[serde(default = "top_k")]
    #[schemars(range(min = 1, max = 1000))]
    pub top_k: u32,
    /// True: the images have classes, and the model is judged by them.
    #[serde(default)]
    pub evaluate: bool,
    /// Where it runs. For each shard there is one pod, so nodes stays 1.
    #[serde(default)]
    pub infrastructure: Infrastructure,
    /// How the pods get their places.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// How long, how often and when the job runs. All of it can be changed at any time.
    #[serde(default)]
    pub run_policy: RunPolicy,
    /// Name of the controller that runs this job. If absent: Trainyard. With another one, Trainyard leaves the job alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::controller_name")]
    pub managed_by: Option<String>,
}

/// The images to score. Size and normalisation are the model's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScoringData {
    /// Where the images are: a folder, whose subfolders are the classes if evaluate is true, or a table that lists them.
    #[schemars(schema_with = "crate::schema::readable_uri")]
    pub uri: String,
    /// How the images are listed. Auto: by the file's ending, and an image folder if the URI is a folder.
    #[serde(default)]
    pub format: DataFormat,
    /// Column of a table that has the image's path, relative to the table, or its URI.
    #[serde(default = "image_column")]
    #[schemars(length(min = 1, max = 256))]
    pub image_column: String,
    /// Column of a table that has the class, where there is one. Rows repeat it, and if evaluate is true, the model is judged
    /// by it.
    #[serde(default = "label_column")]
    #[schemars(length(min = 1, max = 256))]
    pub label_column: String,
    /// Threads of each process that read and decode images. 0: the process's share of its CPUs.
    #[serde(default)]
    #[schemars(range(min = 0, max = 256))]
    pub loader_threads: u32,
}

/// Where the rows go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScoringOutput {
    /// Folder that the rows go to. It belongs to the first job that writes to it.
    #[schemars(schema_with = "crate::schema::writable_uri")]
    pub uri: String,
    /// Format of the rows.
    #[serde(default)]
    pub format: RowFormat,
}

/// Format of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RowFormat {
    /// Comma-separated values with a header.
    #[default]
    Csv,
    /// One JSON object a line.
    JsonLines,
    /// Apache Parquet.
    Parquet,
}

impl ScoringJobSpec {
    /// Pods at a time.
    pub fn parallelism(&self) -> u32 {
        self.parallelism.unwrap_or(self.shards).min(self.shards)
    }
}

fn one() -> u32 {
    1
}

fn batch_size() -> u32 {
    32
}

fn top_k() -> u32 {
    5
}
