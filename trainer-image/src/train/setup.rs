//! What a training starts from: the recipe with everything resolved, the data listed and split, the model built.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crds::contract::{Assignment, Cause};
use crds::model::{Architecture, FineTuningStrategy};
use crds::training::{GradientCompression, Precision};
use crds::training_job::{Recipe, TrainingJobSpec};
use tch::{Device, Kind, Tensor};

use super::gpu_use::GpuUse;
use super::parent::{self, Parent};
use super::recipe::{self, Basis};
use super::replica::StepSettings;
use crate::data::{Augmentation, Dataset, Finding, Images, Labels, Preprocessing, Sampler, Source, View, check, open};
use crate::ddp::DdpOptions;
use crate::fault::Fault;
use crate::loss::{self, Blend, Criterion};
use crate::model::{self, Card, Saved};
use crate::optim::{Ema, GradientScaler, Schedule};
use crate::place::Place;
use crate::storage::{self, is_remote, path_of};
use crate::torch::driver::GpuInfo;
use crate::torch::{is_deterministic, set_channels_last};
use crate::zoo::{Blueprint, Model, WeightsError, read_weights};

/// What a training starts from, the same on every rank.
pub(super) struct Setup {
    pub(super) recipe: Recipe,
    pub(super) parent: Option<Saved>,
    /// The figures of the model that gave the first weights; on rank 0 alone.
    pub(super) before: Option<Parent>,
    pub(super) training: Arc<Images>,
    pub(super) validation: Option<Arc<Images>>,
    pub(super) preprocessing: Preprocessing,
    pub(super) sampler: Sampler,
    pub(super) schedule: Schedule,
    pub(super) step: StepSettings,
    /// Weight of each class in the loss, where they differ.
    pub(super) class_weights: Option<Vec<f32>>,
    pub(super) device: Device,
    /// How the GPUs are used; on rank 0 alone, and where there are some.
    pub(super) gpu_use: Option<GpuUse>,
}

impl Setup {
    /// Resolves a job on `device`; `gpus` are those of this pod's processes, none on CPUs.
    pub(super) fn new(
        job: &Assignment<TrainingJobSpec>,
        place: &Place,
        device: Device,
        gpus: &[GpuInfo],
    ) -> Result<Setup, Fault> {
        let spec = &job.spec;
        let parent = match &spec.retrain_from {
            Some(reference) => Some(model::open(&reference_path(reference.uri.as_deref())?)?),
            None => None,
        };
        let recipe = recipe::resolve(spec, parent.as_ref().map(|parent| &parent.card.recipe), gpus)?;
        let before = if place.is_first() { model_before(spec, &recipe)? } else { None };
        let (training, validation) = list(&recipe)?;
        let preprocessing = Preprocessing::from(&recipe.data);
        preprocessing.check()?;
        let seed = u64::from(recipe.training.seed);
        let accumulation = recipe.training.gradient_accumulation as usize;
        let batch_size = recipe.training.batch_size as usize;
        let world_size = place.world_size as usize;
        let sampler =
            Sampler::new(seed, training.samples.len(), batch_size * accumulation, world_size).in_passes(batch_size);
        let settings = recipe.training.optimizer.settings();
        let steps_per_epoch = sampler.steps_per_epoch() as u64;
        let schedule = Schedule {
            base: settings.learning_rate,
            warmup_steps: u64::from(recipe.training.warmup_steps),
            steps_per_epoch,
            total_steps: steps_per_epoch * u64::from(recipe.training.epochs),
            settings: recipe.training.schedule.settings(),
        };
        let step = StepSettings {
            batch_size,
            precision: match recipe.training.precision {
                Precision::Float32 => Kind::Float,
                Precision::BFloat16 => Kind::BFloat16,
                Precision::Float16 => Kind::Half,
            },
            blend: Blend { mixup: recipe.data.augmentation.mixup, cutmix: recipe.data.augmentation.cutmix, seed },
            side: preprocessing.crop_size,
            rank: place.rank,
            clip_norm: recipe.training.gradient_clip_norm,
        };
        let class_weights =
            loss::class_weights(&recipe.training.class_weights, &training.classes, &training.class_counts()).map_err(
                |error| {
                    Fault::new(Cause::BadSpec, format!("spec.training.{error}"))
                        .hint("name the classes as the data has them")
                },
            )?;
        let augmentation = Augmentation::from(&recipe.data.augmentation);
        // A GPU flips a batch in no time; a CPU would go over its bytes once more.
        let view = View::training(preprocessing.clone(), augmentation, seed).flips_later(device != Device::Cpu);
        let training = Arc::new(Images::new(Arc::new(training), view));
        let validation =
            validation.map(|data| Arc::new(Images::new(Arc::new(data), View::evaluation(preprocessing.clone()))));
        Ok(Setup {
            recipe,
            parent,
            before,
            training,
            validation,
            preprocessing,
            sampler,
            schedule,
            step,
            class_weights,
            device,
            gpu_use: if place.is_first() { GpuUse::of(gpus) } else { None },
        })
    }

    /// What a checkpoint has to be of for this training to go on from it.
    pub(super) fn basis(&self) -> Basis {
        let retrain_from = self.parent.as_ref().map(|parent| parent.digest.clone());
        Basis { recipe: self.recipe.clone(), retrain_from }
    }

    /// What a person should know about the data before it is trained on.
    pub(super) fn look_at_data(&self) -> Result<Vec<Finding>, Fault> {
        let validation = self.validation.as_ref().map(|images| images.dataset());
        Ok(check(self.training.dataset(), validation, self.preprocessing.crop_size)?)
    }

    /// How many of so many images may be unreadable.
    pub(super) fn unreadable(&self, images: usize) -> usize {
        (self.recipe.data.unreadable_fraction * images as f64) as usize
    }

    /// Names of the classes.
    pub(super) fn classes(&self) -> &[String] {
        &self.training.dataset().classes
    }

    /// Steps of the whole training.
    pub(super) fn total_steps(&self) -> u64 {
        self.schedule.total_steps
    }

    /// Tells what is about to be trained, on what, and for how long.
    pub(super) fn introduce(&self, model: &Model, place: &Place) {
        let training = &self.recipe.training;
        let images = |images: &Arc<Images>| images.dataset().samples.len();
        tracing::info!(
            architecture = self.recipe.model.architecture.name(),
            trainable_values = model.state().trainable_values(),
            classes = self.classes().len(),
            training_images = images(&self.training),
            validation_images = self.validation.as_ref().map_or(0, images),
            image_size = self.preprocessing.crop_size,
            processes = place.world_size,
            images_per_step = self.sampler.global_batch(),
            epochs = training.epochs,
            steps = self.total_steps(),
            device = ?self.device,
            precision = ?training.precision,
            deterministic = is_deterministic(),
            "trains"
        );
    }

    /// What is minimised.
    pub(super) fn criterion(&self) -> Criterion {
        Criterion::new(self.recipe.training.label_smoothing, self.class_weights.clone(), self.device)
    }

    /// How gradients are averaged.
    pub(super) fn ddp_options(&self) -> DdpOptions {
        let compression = match self.recipe.training.gradient_compression {
            GradientCompression::None => None,
            GradientCompression::Float16 => Some(Kind::Half),
            GradientCompression::BFloat16 => Some(Kind::BFloat16),
        };
        DdpOptions { compression, ..DdpOptions::default() }
    }

    /// What keeps gradients of 16 bits in range; none with other precisions.
    pub(super) fn scaler(&self) -> Option<GradientScaler> {
        (self.step.precision == Kind::Half).then(GradientScaler::default)
    }

    /// The moving average of a model's tensors, where one is asked for.
    pub(super) fn ema(&self, model: &Model) -> Option<Ema> {
        let tensors = model.state().entries().iter().map(|entry| (entry.name.clone(), entry.tensor.shallow_clone()));
        self.recipe.training.ema_decay.map(|decay| Ema::new(decay, tensors.collect()))
    }

    /// Builds the model with its first weights.
    pub(super) fn model(&self) -> Result<Model, Fault> {
        let Recipe { model, training, .. } = &self.recipe;
        let blueprint = Blueprint {
            architecture: model.architecture,
            classes: self.classes().len() as i64,
            image_size: i64::from(self.preprocessing.crop_size),
        };
        let mut network = Model::new(blueprint, i64::from(training.seed), self.device)
            .map_err(|error| Fault::new(Cause::BadSpec, error.to_string()).hint("set data.imageSize"))?;
        if let Some(FirstWeights { tensors, source, classes }) = self.first_weights()? {
            let adopted = network.adopt(tensors).inspect_err(|error| {
                if let WeightsError::Mismatch(faults) = error {
                    faults.iter().for_each(|fault| tracing::error!(source, "initial weights: {fault}"));
                }
            })?;
            tracing::info!(source, "initial weights {adopted}");
            if adopted.fresh_head.is_none()
                && let Some(renamed) = classes.and_then(|classes| renamed(&classes, self.classes()))
            {
                tracing::warn!(source, "{renamed}");
            }
        }
        match model.fine_tuning.strategy {
            FineTuningStrategy::All => {}
            FineTuningStrategy::HeadOnly => network.train_last_stages(1),
            FineTuningStrategy::LastStages => {
                network.train_last_stages(1 + model.fine_tuning.stages.unwrap_or(1) as usize);
            }
        }
        for entry in network.state().entries() {
            set_channels_last(&entry.tensor)?;
        }
        Ok(network)
    }

    fn first_weights(&self) -> Result<Option<FirstWeights>, Fault> {
        if let Some(initial) = &self.recipe.model.initial_weights
            && self.parent.is_none()
        {
            let (tensors, classes) = weights_at(&path_of(&initial.uri)?, self.recipe.model.architecture)?;
            return Ok(Some(FirstWeights { tensors, source: initial.uri.clone(), classes }));
        }
        let Some(parent) = &self.parent else { return Ok(None) };
        check_architecture("the model to retrain", &parent.card, self.recipe.model.architecture)?;
        Ok(Some(FirstWeights {
            tensors: parent.weights.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect(),
            source: parent.digest.clone(),
            classes: Some(parent.card.classes.clone()),
        }))
    }
}

/// The figures of the model folder that the first weights come from, if it is one.
fn model_before(spec: &TrainingJobSpec, recipe: &Recipe) -> Result<Option<Parent>, Fault> {
    let path = match (&spec.retrain_from, &recipe.model.initial_weights) {
        (Some(reference), _) => reference_path(reference.uri.as_deref())?,
        (None, Some(initial)) => path_of(&initial.uri)?,
        (None, None) => return Ok(None),
    };
    Ok(if is_model_folder(&path) { parent::figures(&path) } else { None })
}

/// Weights to start from.
struct FirstWeights {
    /// By name.
    tensors: BTreeMap<String, Tensor>,
    /// Where they come from.
    source: String,
    /// Names of the classes that their head is for, where a model folder has them.
    classes: Option<Vec<String>>,
}

/// What is said of a head that is taken for as many classes of other names, or in another order. None if they are the same.
fn renamed(before: &[String], now: &[String]) -> Option<String> {
    const TOLD: usize = 3;
    let other: Vec<_> = before.iter().zip(now).filter(|(before, now)| before != now).collect();
    let told: Vec<_> = other.iter().take(TOLD).map(|(before, now)| format!("{before} is now {now}")).collect();
    let more = match other.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!other.is_empty()).then(|| {
        format!(
            "the head of the initial weights is taken, and its classes have other names or another order: {}{more}; it has to \
             unlearn them if they are not the same classes",
            told.join(", ")
        )
    })
}

/// Lists the images and splits them.
fn list(recipe: &Recipe) -> Result<(Dataset, Option<Dataset>), Fault> {
    let data = &recipe.data;
    let source = |uri: &str| -> Result<Source, Fault> {
        Ok(Source {
            path: path_of(uri)?,
            format: data.format.into(),
            image_column: data.image_column.clone(),
            label_column: data.label_column.clone(),
        })
    };
    let all = open(&source(&data.uri)?, Labels::Discover)?;
    if let Some(uri) = &data.validation.uri {
        let validation = open(&source(uri)?, Labels::Known(&all.classes))?;
        return Ok((all, Some(validation)));
    }
    let fraction = data.validation.fraction;
    if fraction == 0.0 {
        return Ok((all, None));
    }
    let split = all.split(fraction, u64::from(recipe.training.seed));
    let validation = (!split.validation.is_empty()).then(|| all.subset(&split.validation));
    Ok((all.subset(&split.training), validation))
}

fn reference_path(uri: Option<&str>) -> Result<PathBuf, Fault> {
    let uri = uri.ok_or_else(|| {
        Fault::new(Cause::Bug, "the assignment names a model by its job: the operator resolves it to a URI")
    })?;
    path_of(uri)
}

/// Endings of files that hold weights: in a store, where a name says nothing of folders, all else is a model folder.
const WEIGHT_FILES: [&str; 5] = ["safetensors", "pth", "pt", "bin", "tar"];

/// Whether weights are those of a model folder, not of a file.
fn is_model_folder(path: &Path) -> bool {
    let is_named_as_file = || path.extension().is_some_and(|ending| WEIGHT_FILES.iter().any(|one| ending == *one));
    if is_remote(path) { !is_named_as_file() } else { path.is_dir() }
}

/// Weights of a model folder of this architecture, with the names of its classes, or of a file.
fn weights_at(
    path: &Path,
    architecture: Architecture,
) -> Result<(BTreeMap<String, Tensor>, Option<Vec<String>>), Fault> {
    if is_model_folder(path) {
        let Saved { card, weights, .. } = model::open(path)?;
        check_architecture(&path.display().to_string(), &card, architecture)?;
        return Ok((weights, Some(card.classes)));
    }
    let bytes = storage::read(path)
        .map_err(|error| Fault::io(format_args!("read the initial weights {}", path.display()), error))?;
    let weights = read_weights(&bytes).map_err(|error| {
        Fault::new(Cause::BadData, format!("{}: {error}", path.display()))
            .hint("give a model folder, a .safetensors file, or a .pth file of model.state_dict()")
    })?;
    Ok((weights, None))
}

/// Refuses a model of another architecture, which would otherwise be told by every tensor that does not fit.
fn check_architecture(model: &str, card: &Card, asked: Architecture) -> Result<(), Fault> {
    let (there, asked) = (card.architecture.name(), asked.name());
    if there == asked {
        return Ok(());
    }
    Err(Fault::new(Cause::BadSpec, format!("{model} is a {there}, and model.architecture is {asked}"))
        .hint(format!("set model.architecture to {there}, or start from weights of a {asked}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_for_classes_of_other_names_is_told_of_with_the_first_of_them() {
        let said = |before: &str, now: &str| {
            let names = |list: &str| list.split(' ').map(str::to_owned).collect::<Vec<_>>();
            renamed(&names(before), &names(now))
        };
        assert_eq!(said("rose tulip", "rose tulip"), None);
        let order = said("rose tulip lily", "tulip rose lily").unwrap();
        assert!(order.contains("another order: rose is now tulip, tulip is now rose; it has to"), "{order}");
        assert!(
            said("a b c d e", "f g h i e").unwrap().contains(": a is now f, b is now g, c is now h and 1 more; it")
        );
    }

    #[test]
    fn in_a_store_a_name_tells_files_of_weights_from_model_folders() {
        for (path, is_folder) in [
            ("s3://bucket/models/flowers", true),
            ("s3://bucket/models/flowers-v1.2", true),
            ("s3://bucket/resnet18.safetensors", false),
            ("s3://bucket/resnet18-f37072fd.pth", false),
            ("s3://bucket/best.pth.tar", false),
            (env!("CARGO_MANIFEST_DIR"), true),
            (concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), false),
        ] {
            assert_eq!(is_model_folder(Path::new(path)), is_folder, "{path}");
        }
    }
}
