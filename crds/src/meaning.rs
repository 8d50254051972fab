//! What a spec means beyond what schema and CEL can say: what contradicts itself, what has no effect, and what this version
//! can't do yet. Used before anything runs, and by the trainer at its start, so that no field is ignored in silence.

use crate::contract::env;
use crate::data::{Augmentation, Crop, Data, DataFormat, RandomResizedCrop};
use crate::fault::Fault;
use crate::infrastructure::{Device, Infrastructure};
use crate::model::{FineTuningStrategy, Model, ModelRef};
use crate::model_endpoint::{Batching, RequestLimits};
use crate::optimizer::{Optimizer, OptimizerName};
use crate::run_policy::{RunPolicy, Scheduling};
use crate::schedule::{Schedule, ScheduleName};
use crate::support::{THIS_VERSION, absent, output_uri, unsupported, uri};
use crate::training::{ClassWeighting, Precision, Training};
use crate::training_job::TrainingJobSpec;
use crate::{ModelEndpointSpec, ScoringJobSpec};

impl TrainingJobSpec {
    /// Contradictions, fields without effect, and what this version can't do yet.
    pub fn meaning(&self) -> Vec<Fault> {
        let mut faults = infrastructure(&self.infrastructure);
        faults.extend(scheduling(&self.scheduling));
        faults.extend(self.retrain_from.as_ref().and_then(|from| model_ref("spec.retrainFrom", from)));
        if self.infrastructure.image.is_some() {
            // A custom image reads the spec by its own lights.
            return faults;
        }
        faults.extend(output_uri("spec.output.uri", &self.output.uri));
        faults.extend(unsupported("spec.task", self.task, THIS_VERSION.tasks, debug));
        faults.extend(self.model.iter().flat_map(|given| model(given, self.retrain_from.is_some())));
        faults.extend(self.data.iter().flat_map(data));
        faults.extend(self.model.iter().zip(&self.data).filter_map(|(model, data)| image_size(model, data)));
        faults.extend(self.data.iter().filter_map(|data| inside(&data.uri, &self.output.uri)));
        let training_given = self.training.clone().unwrap_or_default();
        let validated = self.data.as_ref().is_none_or(Data::is_validated);
        faults.extend(training(&training_given, validated));
        faults.extend(self.model.as_ref().and_then(|model| batch_norm(model, &training_given)));
        faults.extend(collective_timeout(&training_given, &self.run_policy));
        faults.extend(checkpoint(self.output.checkpoint.every_seconds, &self.run_policy));
        faults
    }
}

impl ScoringJobSpec {
    /// Contradictions, fields without effect, and what this version can't do yet.
    pub fn meaning(&self) -> Vec<Fault> {
        let mut faults = infrastructure(&self.infrastructure);
        faults.extend(scheduling(&self.scheduling));
        if self.infrastructure.image.is_some() {
            return faults;
        }
        faults.extend(model_ref("spec.model", &self.model));
        faults.extend(uri("spec.data.uri", &self.data.uri));
        faults.extend(listing("spec.data", &self.data.uri, self.data.format));
        faults.extend(output_uri("spec.output.uri", &self.output.uri));
        faults.extend(inside(&self.data.uri, &self.output.uri));
        faults.extend(precision("spec.precision", self.precision));
        if !self.evaluate && self.data.label_column != crate::data::label_column() {
            faults.push(no_effect(
                "spec.data.labelColumn",
                "evaluate is false",
                "Set evaluate to true to judge the model",
            ));
        }
        faults
    }
}

fn scheduling(given: &Scheduling) -> Vec<Fault> {
    let queue = absent("spec.scheduling.queueName", given.queue_name.is_some(), THIS_VERSION.queues);
    queue.into_iter().chain(unsupported("spec.scheduling.gang", given.gang, THIS_VERSION.gangs, debug)).collect()
}

impl ModelEndpointSpec {
    /// Contradictions, fields without effect, and what this version can't do yet.
    pub fn meaning(&self) -> Vec<Fault> {
        let mut faults = infrastructure(&self.infrastructure);
        if self.infrastructure.image.is_some() {
            faults.extend(self.left_to_the_image());
            return faults;
        }
        faults.extend(model_ref("spec.model", &self.model));
        faults.extend(precision("spec.precision", self.precision));
        let (each, processes) = (self.infrastructure.gpus_per_node, self.infrastructure.processes_per_node);
        for (field, given, what) in [("gpusPerNode", each, "GPU"), ("processesPerNode", processes, "process")] {
            if given != 1 {
                let message = format!("a replica computes with one {what}, not with {given}");
                let path = format!("spec.infrastructure.{field}");
                faults.push(Fault::error(path, message, "Leave it out and give replicas"));
            }
        }
        if self.batching.max_queue < self.batching.max_batch_size {
            let message = "is smaller than maxBatchSize, so that no batch ever gets full";
            faults.push(Fault::warning("spec.batching.maxQueue", message, "Give at least maxBatchSize"));
        }
        faults
    }
}

impl ModelEndpointSpec {
    /// What only an image that reads it carries out.
    fn left_to_the_image(&self) -> impl Iterator<Item = Fault> {
        let fields = [
            ("authentication", self.authentication.is_some(), env::TOKEN_FILE),
            ("limits", self.limits != RequestLimits::default(), env::ASSIGNMENT),
            ("batching", self.batching != Batching::default(), env::ASSIGNMENT),
            ("explain", self.explain, env::ASSIGNMENT),
            ("precision", self.precision != Precision::default(), env::ASSIGNMENT),
        ];
        fields.into_iter().filter(|(_, given, _)| *given).map(|(field, _, variable)| {
            let message = "is left to the image: nothing else carries it out";
            let hint = format!("Have the image read it, by the environment variable {variable}");
            Fault::warning(format!("spec.{field}"), message, hint)
        })
    }
}

fn model_ref(path: &str, model: &ModelRef) -> Option<Fault> {
    model.uri.as_ref().and_then(|text| uri(&format!("{path}.uri"), text))
}

fn infrastructure(given: &Infrastructure) -> Vec<Fault> {
    let mut faults = Vec::new();
    let gpu = &given.gpu;
    if given.device == Device::Cpu {
        let fields = [
            ("gpusPerNode", given.gpus_per_node != 1),
            ("gpu.products", !gpu.products.is_empty()),
            ("gpu.minMemory", gpu.min_memory.is_some()),
        ];
        for (field, _) in fields.iter().filter(|(_, given)| *given) {
            faults.push(no_effect(
                &format!("spec.infrastructure.{field}"),
                "device is Cpu",
                "Set device to Auto or Gpu",
            ));
        }
    }
    if given.device == Device::Gpu && given.processes_per_node != 1 {
        let path = "spec.infrastructure.processesPerNode";
        faults.push(no_effect(path, "device is Gpu", "Give gpusPerNode: there is one process for each GPU"));
    }
    for (field, why) in given.pod.misfits() {
        let hint = "Write it as in the spec of a pod: kubectl explain pod.spec tells how";
        faults.push(Fault::error(format!("spec.infrastructure.pod.{field}"), why, hint));
    }
    let claims = given.pod.resources.iter().flat_map(|resources| resources.claims.iter().flatten());
    for claim in claims.filter(|claim| given.pod.resource_claims.iter().all(|known| known.name != claim.name)) {
        let path = "spec.infrastructure.pod.resources.claims";
        let message = format!("uses the claim {:?}, which is not in pod.resourceClaims", claim.name);
        faults.push(Fault::error(path, message, "Add it to resourceClaims, or correct the name"));
    }
    faults.extend(gpus_among_resources(given));
    for mount in &given.pod.volume_mounts {
        if !given.pod.volumes.iter().any(|volume| volume.get().is_none_or(|volume| volume.name == mount.name)) {
            let path = "spec.infrastructure.pod.volumeMounts";
            let message = format!("mounts the volume {:?}, which is not in volumes", mount.name);
            faults.push(Fault::error(path, message, "Add it to volumes, or correct the name"));
        }
    }
    faults
}

/// GPUs written as a pod of one's own has them: they would be overwritten, or taken where the job was placed on CPUs.
fn gpus_among_resources(given: &Infrastructure) -> Vec<Fault> {
    let Some(resources) = &given.pod.resources else { return Vec::new() };
    // Other resources of this domain are network adapters.
    let is_gpu = |name: &str| {
        name == given.gpu.resource_name || name.starts_with("nvidia.com/gpu") || name.starts_with("nvidia.com/mig-")
    };
    [("limits", &resources.limits), ("requests", &resources.requests)]
        .into_iter()
        .flat_map(|(field, amounts)| amounts.iter().flatten().map(move |(name, _)| (field, name)))
        .filter(|(_, name)| is_gpu(name))
        .map(|(field, name)| {
            let path = format!("spec.infrastructure.pod.resources.{field}");
            let message = format!("has {name}: GPUs are not asked for here");
            let hint = "Give infrastructure.gpusPerNode, and gpu.resourceName where it is not nvidia.com/gpu";
            Fault::error(path, message, hint)
        })
        .collect()
}

fn model(given: &Model, retrains: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let (path, strategy) = ("spec.model.architecture", given.fine_tuning.strategy);
    faults.extend(unsupported(path, given.architecture, THIS_VERSION.architectures, |one| one.name().into()));
    faults.extend(given.initial_weights.as_ref().and_then(|from| uri("spec.model.initialWeights.uri", &from.uri)));
    if given.fine_tuning.stages.is_some() && strategy != FineTuningStrategy::LastStages {
        let because = format!("the strategy is {strategy:?}");
        faults.push(no_effect("spec.model.fineTuning.stages", &because, "Set strategy to LastStages"));
    }
    let there = given.architecture.stages();
    if let (FineTuningStrategy::LastStages, Some(asked)) = (strategy, given.fine_tuning.stages)
        && asked > there
    {
        let message = format!("{} has {there} stages, not {asked}", given.architecture.name());
        let hint = format!("Give {there} or fewer, or set strategy to All, which trains every layer");
        faults.push(Fault::error("spec.model.fineTuning.stages", message, hint));
    }
    if strategy != FineTuningStrategy::All && given.initial_weights.is_none() && !retrains {
        let message = format!("{strategy:?} leaves layers untrained that have random weights");
        let hint = "Give initialWeights or retrainFrom, or train all layers";
        faults.push(Fault::error("spec.model.fineTuning.strategy", message, hint));
    }
    faults
}

fn image_size(model: &Model, data: &Data) -> Option<Fault> {
    let sizes = model.architecture.image_sizes();
    let message = format!("{} takes images of {sizes}, not of {}", model.architecture.name(), data.image_size);
    let hint = "224 is what most weights were trained with";
    (!sizes.contain(data.image_size)).then(|| Fault::error("spec.data.imageSize", message, hint))
}

fn data(given: &Data) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(uri("spec.data.uri", &given.uri));
    faults.extend(given.validation.uri.as_ref().and_then(|text| uri("spec.data.validation.uri", text)));
    faults.extend(listing("spec.data", &given.uri, given.format));
    if given.validation.uri.as_ref() == Some(&given.uri) {
        let message = "is data.uri: the model would be judged by what it was trained on";
        faults.push(Fault::error("spec.data.validation.uri", message, "Give other images, or validation.fraction"));
    }
    if given.format == DataFormat::ImageFolder {
        let columns = [
            ("imageColumn", given.image_column != crate::data::image_column()),
            ("labelColumn", given.label_column != crate::data::label_column()),
        ];
        for (column, _) in columns.iter().filter(|(_, given)| *given) {
            let hint = "Columns are those of a table: Csv, JsonLines or Parquet";
            faults.push(no_effect(&format!("spec.data.{column}"), "format is ImageFolder", hint));
        }
    }
    faults.extend(augmentation(&given.augmentation));
    faults
}

fn listing(path: &str, text: &str, format: DataFormat) -> Vec<Fault> {
    let path = format!("{path}.format");
    let ending = text.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    let by_ending = match ending.as_str() {
        "csv" => Some(DataFormat::Csv),
        "jsonl" | "ndjson" => Some(DataFormat::JsonLines),
        "parquet" => Some(DataFormat::Parquet),
        "tar" => Some(DataFormat::WebDataset),
        _ => None,
    };
    let mut faults: Vec<Fault> = unsupported(&path, format, THIS_VERSION.formats, debug).into_iter().collect();
    match by_ending {
        Some(ending) if format == DataFormat::Auto => {
            faults.extend(unsupported(&path, ending, THIS_VERSION.formats, debug));
        }
        Some(ending) if format != ending => {
            let message = format!("is {format:?}, but the URI ends as {ending:?} does");
            faults.push(Fault::warning(path, message, format!("Leave it out, or set it to {ending:?}")));
        }
        _ => {}
    }
    faults
}

fn augmentation(given: &Augmentation) -> Vec<Fault> {
    let path = "spec.data.augmentation";
    let is_cropped = given.crop == Crop::RandomResized || given.random_resized_crop == RandomResizedCrop::default();
    let hint = "Leave it out, or set crop to RandomResized";
    [
        (!is_cropped).then(|| no_effect(&format!("{path}.randomResizedCrop"), "crop is None", hint)),
        unsupported(&format!("{path}.policy"), given.policy, THIS_VERSION.policies, debug),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn training(given: &Training, validated: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let rate = given.optimizer.settings().learning_rate;
    faults.extend(unsupported("spec.training.optimizer.name", given.optimizer.name, THIS_VERSION.optimizers, debug));
    faults.extend(unsupported("spec.training.schedule.name", given.schedule.name, THIS_VERSION.schedules, debug));
    faults.extend(precision("spec.training.precision", given.precision));
    let compressions = THIS_VERSION.gradient_compressions;
    faults.extend(unsupported("spec.training.gradientCompression", given.gradient_compression, compressions, debug));
    faults.extend(absent("spec.training.syncBatchNorm", given.sync_batch_norm, THIS_VERSION.sync_batch_norm));
    let weights = &given.class_weights;
    if weights.mode != ClassWeighting::Given && !weights.weights.is_empty() {
        let because = format!("mode is {:?}", weights.mode);
        faults.push(no_effect("spec.training.classWeights.weights", &because, "Set mode to Given"));
    }
    faults.extend(optimizer(&given.optimizer));
    faults.extend(schedule(&given.schedule, given.epochs, rate));
    if !validated {
        let hint = "Give data.validation";
        if given.early_stopping.is_some() {
            let message = "watches a validation that there is not: data.validation.fraction is 0";
            faults.push(Fault::error("spec.training.earlyStopping", message, hint));
        }
        if given.schedule.name == ScheduleName::Plateau {
            let message = "Plateau watches a validation that there is not: data.validation.fraction is 0";
            faults.push(Fault::error("spec.training.schedule.name", message, hint));
        }
    }
    faults
}

fn optimizer(given: &Optimizer) -> Vec<Fault> {
    use OptimizerName::{Adadelta, Adagrad, Adam, AdamW, Adamax, RmsProp, Sgd};
    let fields: [(&str, bool, &[OptimizerName]); 8] = [
        ("momentum", given.momentum.is_some(), &[Sgd, RmsProp]),
        ("nesterov", given.nesterov.is_some(), &[Sgd]),
        ("beta1", given.beta1.is_some(), &[Adam, AdamW, Adamax]),
        ("beta2", given.beta2.is_some(), &[Adam, AdamW, Adamax]),
        ("epsilon", given.epsilon.is_some(), &[Adam, AdamW, RmsProp, Adamax, Adagrad, Adadelta]),
        ("alpha", given.alpha.is_some(), &[RmsProp]),
        ("rho", given.rho.is_some(), &[Adadelta]),
        ("learningRateDecay", given.learning_rate_decay.is_some(), &[Adagrad]),
    ];
    only_with("spec.training.optimizer", given.name, &fields)
}

fn schedule(given: &Schedule, epochs: u32, rate: f64) -> Vec<Fault> {
    use ScheduleName::{Cosine, Exponential, MultiStep, Plateau, Step};
    let path = "spec.training.schedule";
    let fields: [(&str, bool, &[ScheduleName]); 5] = [
        ("stepEpochs", given.step_epochs.is_some(), &[Step]),
        ("milestones", given.milestones.is_some(), &[MultiStep]),
        ("gamma", given.gamma.is_some(), &[Step, MultiStep, Exponential, Plateau]),
        ("minLearningRate", given.min_learning_rate.is_some(), &[Cosine, Plateau]),
        ("patience", given.patience.is_some(), &[Plateau]),
    ];
    let mut faults = only_with(path, given.name, &fields);
    let late = |epoch: u32| epoch >= epochs;
    if given.name == MultiStep && given.milestones.iter().flatten().any(|epoch| late(*epoch)) {
        let because = format!("the training has {epochs} epochs");
        faults.push(no_effect(&format!("{path}.milestones"), &because, "Give epochs before the last one"));
    }
    if given.name == Step && given.step_epochs.is_some_and(late) {
        let because = format!("the training has {epochs} epochs");
        faults.push(no_effect(&format!("{path}.stepEpochs"), &because, "Give fewer epochs than that"));
    }
    if given.min_learning_rate.is_some_and(|least| least > rate) {
        let message = format!("is above the learning rate of {rate}, so that the rate would rise");
        faults.push(Fault::error(format!("{path}.minLearningRate"), message, "Give a smaller one"));
    }
    faults
}

/// Some networks have no batch norm that could be synchronised.
fn batch_norm(model: &Model, training: &Training) -> Option<Fault> {
    let name = model.architecture.name();
    let because = format!("{name} has no batch norm");
    (training.sync_batch_norm && !model.architecture.has_batch_norm())
        .then(|| no_effect("spec.training.syncBatchNorm", &because, "Leave it out"))
}

/// Who is late is known only when the collective's time is over.
fn collective_timeout(training: &Training, policy: &RunPolicy) -> Option<Fault> {
    let (seconds, deadline) = (training.collective_timeout_seconds, policy.stall_deadline_seconds);
    (deadline > 0 && seconds >= deadline).then(|| {
        let because = format!("the attempt is ended after {deadline} seconds without progress (stallDeadlineSeconds)");
        no_effect("spec.training.collectiveTimeoutSeconds", &because, "Give a shorter time, or a longer deadline")
    })
}

fn precision(path: &str, given: Precision) -> Option<Fault> {
    unsupported(path, given, THIS_VERSION.precisions, debug)
}

fn checkpoint(every_seconds: Option<u32>, policy: &RunPolicy) -> Option<Fault> {
    let (every, deadline) = (every_seconds?, policy.active_deadline_seconds?);
    (every >= deadline).then(|| {
        let because = format!("activeDeadlineSeconds is {deadline}");
        no_effect("spec.output.checkpoint.everySeconds", &because, "Give a shorter time")
    })
}

/// An output below the data would be data in the next run.
fn inside(data: &str, output: &str) -> Option<Fault> {
    let (data, output) = (data.trim_end_matches('/'), output.trim_end_matches('/'));
    let below = output.strip_prefix(data).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    below.then(|| {
        let message = "is within data.uri: what is written there would be taken for data";
        Fault::error("spec.output.uri", message, "Give a folder of its own")
    })
}

fn only_with<T: Copy + PartialEq + std::fmt::Debug>(path: &str, name: T, fields: &[(&str, bool, &[T])]) -> Vec<Fault> {
    let idle = fields.iter().filter(|(_, given, names)| *given && !names.contains(&name));
    idle.map(|(field, _, names)| {
        let names: Vec<String> = names.iter().map(|name| debug(*name)).collect();
        let hint = format!("It belongs to {}", names.join(", "));
        no_effect(&format!("{path}.{field}"), &format!("the name is {name:?}"), &hint)
    })
    .collect()
}

fn no_effect(path: &str, because: &str, hint: &str) -> Fault {
    Fault::warning(path, format!("has no effect, because {because}"), hint)
}

/// A value as manifests write it: variants are named alike.
fn debug<T: std::fmt::Debug>(value: T) -> String {
    format!("{value:?}")
}
