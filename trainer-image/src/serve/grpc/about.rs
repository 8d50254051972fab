//! What is told of models besides what they say of images, as messages.

use super::proto::model_instance_group::Kind;
use super::proto::model_metadata_response::TensorMetadata;
use super::proto::model_version_policy::{Latest, PolicyChoice};
use super::proto::repository_index_response::ModelIndex;
use super::proto::{
    InferBatchStatistics, InferStatistics, ModelConfig, ModelDynamicBatching, ModelInput, ModelInstanceGroup,
    ModelMetadataResponse, ModelOutput, ModelStatistics, ModelVersionPolicy, StatisticDuration,
};
use crate::serve::app::Indexed;
use crate::serve::models::Version;
use crate::serve::protocol::{self, Config, Described};
use crate::serve::statistics::{Figures, Spent};

/// What a model takes and gives.
pub(super) fn metadata(model: &str, version: &Version) -> ModelMetadataResponse {
    let tensor = |Described { name, datatype, shape }: Described| TensorMetadata {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape,
    };
    ModelMetadataResponse {
        name: model.to_owned(),
        versions: vec![version.name.clone()],
        platform: protocol::PLATFORM.to_owned(),
        inputs: protocol::inputs(version.size()).map(tensor).into(),
        outputs: protocol::described_outputs(version.card.classes.len()).map(tensor).into(),
    }
}

/// How it is served.
pub(super) fn config(config: &Config<'_>) -> ModelConfig {
    let input = |described: Described| ModelInput {
        name: described.name.to_owned(),
        data_type: described.data_type().1,
        dims: described.dims().to_vec(),
        optional: true,
    };
    let output = |described: Described| ModelOutput {
        name: described.name.to_owned(),
        data_type: described.data_type().1,
        dims: described.dims().to_vec(),
    };
    ModelConfig {
        name: config.model.to_owned(),
        platform: protocol::PLATFORM.to_owned(),
        version_policy: Some(ModelVersionPolicy {
            policy_choice: Some(PolicyChoice::Latest(Latest { num_versions: 1 })),
        }),
        max_batch_size: i32::try_from(config.batching.max_batch_size).unwrap_or(i32::MAX),
        input: config.inputs().map(input).into(),
        output: config.outputs().map(output).into(),
        instance_group: vec![ModelInstanceGroup {
            name: config.model.to_owned(),
            count: 1,
            gpus: if config.on_gpu { vec![0] } else { Vec::new() },
            kind: if config.on_gpu { Kind::Gpu } else { Kind::Cpu }.into(),
        }],
        default_model_filename: config.file().to_owned(),
        dynamic_batching: Some(ModelDynamicBatching {
            max_queue_delay_microseconds: config.max_queue_delay_microseconds(),
        }),
    }
}

/// What a version has done.
pub(super) fn statistics(model: &str, version: &str, figures: &Figures) -> ModelStatistics {
    let duration = |spent: Spent| Some(StatisticDuration { count: spent.count, ns: spent.ns });
    let none = duration(Spent::default());
    let batch = |(images, spent): (&usize, &Spent)| InferBatchStatistics {
        batch_size: *images as u64,
        compute_input: none,
        compute_infer: duration(*spent),
        compute_output: none,
    };
    ModelStatistics {
        name: model.to_owned(),
        version: version.to_owned(),
        last_inference: figures.last,
        inference_count: figures.images(),
        execution_count: figures.executions(),
        inference_stats: Some(InferStatistics {
            success: duration(figures.success),
            fail: duration(figures.fail),
            queue: duration(figures.queue),
            compute_input: duration(figures.input),
            compute_infer: duration(figures.infer()),
            compute_output: none,
            cache_hit: none,
            cache_miss: none,
        }),
        batch_stats: figures.batches.iter().map(batch).collect(),
    }
}

/// A line of the repository's index.
pub(super) fn indexed(model: Indexed<'_>) -> ModelIndex {
    ModelIndex {
        name: model.name.to_owned(),
        version: model.version,
        state: model.state.to_owned(),
        reason: model.reason.to_owned(),
    }
}
