//! What this version can do of what the API can say. One table: a feature that arrives moves its line here, and what is
//! not in it is refused by name instead of being ignored.

use crate::data::{AugmentationPolicy, DataFormat};
use crate::fault::Fault;
use crate::model::{Architecture, Task};
use crate::optimizer::OptimizerName;
use crate::run_policy::Gang;
use crate::schedule::ScheduleName;
use crate::training::Precision;
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
    /// Formats of lists of images.
    pub formats: &'static [DataFormat],
    /// Storages.
    pub schemes: &'static [Scheme],
    /// Sets of random operations on images.
    pub policies: &'static [AugmentationPolicy],
    /// `augmentation.mixup` and `augmentation.cutmix`.
    pub blended_batches: bool,
    /// `training.emaDecay`.
    pub ema: bool,
    /// `training.earlyStopping`.
    pub early_stopping: bool,
    /// `scheduling.queueName`.
    pub queues: bool,
    /// What starts the pods of a gang together.
    pub gangs: &'static [Gang],
}

/// What this version can do.
pub const THIS_VERSION: Support = Support {
    tasks: &[Task::ImageClassification],
    architectures: &[
        Architecture::Resnet18,
        Architecture::Resnet34,
        Architecture::Resnet50,
        Architecture::Resnet101,
        Architecture::Resnet152,
    ],
    optimizers: &[OptimizerName::Sgd, OptimizerName::Adam, OptimizerName::AdamW],
    schedules: &[
        ScheduleName::Constant,
        ScheduleName::Step,
        ScheduleName::MultiStep,
        ScheduleName::Exponential,
        ScheduleName::Cosine,
    ],
    precisions: &[Precision::Float32, Precision::BFloat16],
    formats: &[DataFormat::Auto, DataFormat::ImageFolder, DataFormat::Csv, DataFormat::JsonLines],
    schemes: &[Scheme::File, Scheme::Pvc],
    policies: &[AugmentationPolicy::None],
    blended_batches: false,
    ema: false,
    early_stopping: false,
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

/// The faults of a URI: malformed, or of a storage that this version can't open yet.
pub(crate) fn uri(path: &str, text: &str) -> Option<Fault> {
    match Uri::parse(text) {
        Err(fault) => Some(Fault::error(path, fault.to_string(), "")),
        Ok(uri) => unsupported(path, uri.scheme(), THIS_VERSION.schemes, |scheme| format!("{}://", scheme.name())),
    }
}

/// Why a kind can't be run on this machine alone, if it can't.
pub fn runs_locally(kind: &str) -> Result<(), Fault> {
    match kind {
        "TrainingJob" | "ScoringJob" => Ok(()),
        _ => Err(Fault::error(
            "kind",
            format!("a {kind} can't be run on this machine by this version"),
            "It runs TrainingJob and ScoringJob",
        )),
    }
}
