//! What a training starts from: the recipe with everything resolved, the data listed and split, the model built.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crds::contract::{Assignment, Cause};
use crds::model::FineTuningStrategy;
use crds::training::Precision;
use crds::training_job::{Recipe, TrainingJobSpec};
use crds::uri::{Scheme, Uri};
use tch::{Device, Kind, Tensor};

use super::replica::StepSettings;
use crate::data::{Augmentation, Dataset, Images, Labels, Preprocessing, Sampler, Source, View, open};
use crate::fault::Fault;
use crate::model::{self, Saved};
use crate::optim::Schedule;
use crate::place::Place;
use crate::torch::set_channels_last;
use crate::zoo::{Model, read_safetensors};

/// What a training starts from, the same on every rank.
pub(super) struct Setup {
    pub(super) recipe: Recipe,
    pub(super) parent: Option<Saved>,
    pub(super) training: Arc<Images>,
    pub(super) validation: Option<Arc<Images>>,
    pub(super) preprocessing: Preprocessing,
    pub(super) sampler: Sampler,
    pub(super) schedule: Schedule,
    pub(super) step: StepSettings,
    pub(super) device: Device,
    /// What a person should know about the data, sentences.
    pub(super) notes: Vec<String>,
}

impl Setup {
    /// Resolves a job on `device`.
    pub(super) fn new(job: &Assignment<TrainingJobSpec>, place: &Place, device: Device) -> Result<Setup, Fault> {
        let spec = &job.spec;
        let parent = match &spec.retrain_from {
            Some(reference) => Some(model::open(&reference_path(reference.uri.as_deref())?)?),
            None => None,
        };
        let recipe = spec
            .recipe(parent.as_ref().map(|parent| &parent.card.recipe))
            .map_err(|error| Fault::new(Cause::BadSpec, error.to_string()))?;
        let mut notes = Vec::new();
        let (training, validation) = list(&recipe, &mut notes)?;
        let preprocessing = Preprocessing::from(&recipe.data);
        preprocessing.check()?;
        let seed = u64::from(recipe.training.seed);
        let accumulation = recipe.training.gradient_accumulation as usize;
        let batch_size = recipe.training.batch_size as usize;
        let sampler = Sampler::new(seed, training.samples.len(), batch_size * accumulation, place.world_size as usize);
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
            label_smoothing: recipe.training.label_smoothing,
            clip_norm: recipe.training.gradient_clip_norm,
        };
        let augmentation = Augmentation::from(&recipe.data.augmentation);
        let view = View::training(preprocessing.clone(), augmentation, seed);
        let training = Arc::new(Images::new(Arc::new(training), view));
        let validation =
            validation.map(|data| Arc::new(Images::new(Arc::new(data), View::evaluation(preprocessing.clone()))));
        Ok(Setup { recipe, parent, training, validation, preprocessing, sampler, schedule, step, device, notes })
    }

    /// Names of the classes.
    pub(super) fn classes(&self) -> &[String] {
        &self.training.dataset().classes
    }

    /// Steps of the whole training.
    pub(super) fn total_steps(&self) -> u64 {
        self.schedule.total_steps
    }

    /// Builds the model with its first weights.
    pub(super) fn model(&self) -> Result<Model, Fault> {
        let Recipe { model, training, .. } = &self.recipe;
        let classes = self.classes().len() as i64;
        let mut network = Model::new(model.architecture, classes, i64::from(training.seed), self.device)
            .map_err(|error| Fault::new(Cause::BadSpec, error.to_string()))?;
        if let Some((weights, source)) = self.first_weights()? {
            let head = network.head().to_owned();
            let whole = network.state_mut().adopt(&weights, &head)?;
            let fate =
                if whole { "taken whole" } else { "taken but for the head, which starts anew: the classes differ" };
            tracing::info!(source, "initial weights {fate}");
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
            return Ok(Some((read_weights(&local_path(&initial.uri)?)?, initial.uri.clone())));
        }
        Ok(self.parent.as_ref().map(|parent| {
            let weights = parent.weights.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
            (weights, parent.digest.clone())
        }))
    }
}

/// Weights by name, and where they come from.
type FirstWeights = (BTreeMap<String, Tensor>, String);

/// Lists the images and splits them.
fn list(recipe: &Recipe, notes: &mut Vec<String>) -> Result<(Dataset, Option<Dataset>), Fault> {
    let data = &recipe.data;
    let source = |uri: &str| -> Result<Source, Fault> {
        Ok(Source {
            path: local_path(uri)?,
            format: data.format.try_into()?,
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
    if !split.not_validated.is_empty() {
        notes.push(format!(
            "too few images to keep one apart for validation: class {}",
            split.not_validated.join(", class ")
        ));
    }
    let validation = (!split.validation.is_empty()).then(|| all.subset(&split.validation));
    Ok((all.subset(&split.training), validation))
}

/// The folder or file that a URI means on this machine.
///
/// # Errors
/// [`Cause::BadSpec`] for storage that this version of the trainer doesn't read.
pub(crate) fn local_path(uri: &str) -> Result<PathBuf, Fault> {
    let parsed: Uri = uri.parse().map_err(|error| Fault::new(Cause::BadSpec, format!("{uri}: {error}")))?;
    if parsed.scheme() == Scheme::File {
        return Ok(PathBuf::from(parsed.path()));
    }
    Err(Fault::new(
        Cause::BadSpec,
        format!("{uri}: this version of the trainer reads and writes file:// and pvc:// alone"),
    )
    .hint("copy the data to a volume and name it by pvc://claim/path"))
}

fn reference_path(uri: Option<&str>) -> Result<PathBuf, Fault> {
    let uri = uri.ok_or_else(|| {
        Fault::new(Cause::Bug, "the assignment names a model by its job: the operator resolves it to a URI")
    })?;
    local_path(uri)
}

/// Weights of a model folder or of a safetensors file.
fn read_weights(path: &Path) -> Result<BTreeMap<String, Tensor>, Fault> {
    if path.is_dir() {
        return Ok(model::open(path)?.weights);
    }
    let bytes = std::fs::read(path)
        .map_err(|error| Fault::io(format_args!("read the initial weights {}", path.display()), error))?;
    read_safetensors(&bytes).map_err(|error| {
        Fault::new(Cause::BadData, format!("{}: {error}", path.display()))
            .hint("give a model folder or a .safetensors file")
    })
}
