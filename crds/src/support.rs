//! What this version can do of what the API can say. One table: a feature that arrives moves its line here, and what is
//! not in it is refused by name instead of being ignored.

use crate::data::{AugmentationPolicy, DataFormat};
use crate::fault::Fault;
use crate::model::{Architecture, Task};
use crate::optimizer::OptimizerName;
use crate::run_policy::Gang;
use crate::schedule::ScheduleName;
use crate::training::{GradientCompression, Precision};
use crate::uri::{Scheme, Uri};

/// What this version can do.
#[derive(Clone, Copy, Debug)]
pub struct Support {
    /// Tasks.
    pub tasks: &'static [Task],
    /// Architectures.
    pub architectures: &'static [Architecture],
    /// Optimizers.
    pub optimizers: &'static [OptimizerName],
    /// Schedules.
    pub schedules: &'static [ScheduleName],
    /// Number formats.
    pub precisions: &'static [Precision],
    /// Number formats of gradients that travel.
    pub gradient_compressions: &'static [GradientCompression],
    /// `training.syncBatchNorm`.
    pub sync_batch_norm: bool,
    /// Formats of lists of images.
    pub formats: &'static [DataFormat],
    /// Storages to read from.
    pub readable: &'static [Scheme],
    /// Storages to write to.
    pub writable: &'static [Scheme],
    /// Sets of random operations on images.
    pub policies: &'static [AugmentationPolicy],
    /// `scheduling.queueName`.
    pub queues: bool,
    /// What starts the pods of a gang together.
    pub gangs: &'static [Gang],
}

/// What this version can do.
pub const THIS_VERSION: Support = Support {
    tasks: &[Task::ImageClassification],
    architectures: &Architecture::ALL,
    optimizers: &[
        OptimizerName::Sgd,
        OptimizerName::Adam,
        OptimizerName::AdamW,
        OptimizerName::RmsProp,
        OptimizerName::Adamax,
        OptimizerName::Adagrad,
        OptimizerName::Adadelta,
    ],
    schedules: &[
        ScheduleName::Constant,
        ScheduleName::Step,
        ScheduleName::MultiStep,
        ScheduleName::Exponential,
        ScheduleName::Cosine,
        ScheduleName::Plateau,
    ],
    precisions: &[Precision::Float32, Precision::BFloat16, Precision::Float16],
    gradient_compressions: &[GradientCompression::None, GradientCompression::Float16, GradientCompression::BFloat16],
    sync_batch_norm: true,
    formats: &[
        DataFormat::Auto,
        DataFormat::ImageFolder,
        DataFormat::Csv,
        DataFormat::JsonLines,
        DataFormat::Parquet,
        DataFormat::WebDataset,
    ],
    readable: &Scheme::ALL,
    writable: &[Scheme::File, Scheme::Pvc, Scheme::S3, Scheme::Gs, Scheme::Az],
    policies: &[AugmentationPolicy::None, AugmentationPolicy::RandAugment, AugmentationPolicy::TrivialAugment],
    queues: false,
    gangs: &[Gang::Auto, Gang::None],
};

/// The fault of a value that this version can't do yet, if it is one. `name` writes a value as manifests do.
pub(crate) fn unsupported<T: Copy + PartialEq>(
    path: &str,
    value: T,
    supported: &[T],
    name: impl Fn(T) -> String,
) -> Option<Fault> {
    if supported.contains(&value) {
        return None;
    }
    let known: Vec<String> = supported.iter().map(|value| name(*value)).collect();
    let message = format!("{} is not supported by this version", name(value));
    Some(Fault::error(path, message, format!("It has {}", known.join(", "))))
}

/// The fault of a feature that this version doesn't have yet, if it is asked for.
pub(crate) fn absent(path: &str, asked: bool, supported: bool) -> Option<Fault> {
    let name = path.rsplit('.').next().unwrap_or(path);
    (asked && !supported)
        .then(|| Fault::error(path, format!("{name} is not supported by this version"), "Leave it out"))
}

/// The fault of a URI to read from: malformed, or of a storage that this version can't open yet.
pub(crate) fn uri(path: &str, text: &str) -> Option<Fault> {
    of_storage(path, text, THIS_VERSION.readable)
}

/// The fault of a URI to write to.
pub(crate) fn output_uri(path: &str, text: &str) -> Option<Fault> {
    of_storage(path, text, THIS_VERSION.writable)
}

fn of_storage(path: &str, text: &str, supported: &[Scheme]) -> Option<Fault> {
    match Uri::parse(text) {
        Err(fault) => Some(Fault::error(path, fault.to_string(), "")),
        Ok(uri) => unsupported(path, uri.scheme(), supported, |scheme| format!("{}://", scheme.name())),
    }
}

/// Why a kind can't be run on this machine alone, if it can't.
pub fn runs_locally(kind: &str) -> Result<(), Fault> {
    match kind {
        "TrainingJob" | "ScoringJob" | "ModelEndpoint" => Ok(()),
        _ => Err(Fault::error(
            "kind",
            format!("a {kind} can't be run on this machine by this version"),
            "It runs TrainingJob, ScoringJob and ModelEndpoint",
        )),
    }
}
