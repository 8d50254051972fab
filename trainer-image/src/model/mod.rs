//! The model folder: what a training leaves behind, and what scoring, serving and retraining read.
//!
//! `model.json` names every other file with its digest and is written last: a folder with it is whole.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use crds::contract::Cause;
use crds::model::Architecture;
use crds::training_job::Recipe;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::data::Preprocessing;
use crate::fault::Fault;
use crate::folder::{Folder, digest};
use crate::metrics::History;
use crate::storage::{self, is_remote};
use crate::zoo::read_safetensors;

/// Name of the file that describes the model.
pub const CARD: &str = "model.json";
/// Name of the file with the weights.
pub const WEIGHTS: &str = "model.safetensors";
/// Name of the file with the training's course and the final figures.
pub const METRICS: &str = "metrics.json";
/// Name of the file for people.
pub const REPORT: &str = "report.html";
/// Largest card that is read: a million classes with long names and a recipe.
const MAX_CARD_BYTES: u64 = 256 << 20;
/// Version of the format that this trainer writes.
const FORMAT: u32 = 1;

/// What `model.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Card {
    /// Version of this format.
    pub format: u32,
    /// The network.
    pub architecture: Architecture,
    /// Names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// What an image goes through before the network.
    pub preprocessing: Preprocessing,
    /// Digest of the above: a reader with another implementation refuses.
    pub preprocessing_hash: String,
    /// For two classes: probability of the second from which on an image belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Accuracy on the validation images, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// How the model was trained.
    pub recipe: Recipe,
    /// Who trained it, where.
    pub origin: Origin,
    /// Digests of the other files, by name.
    pub files: BTreeMap<String, String>,
}

/// Where a model comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Kind, namespace and name of the job.
    pub job: String,
    /// UID of the job.
    pub uid: String,
    /// Attempt that finished it.
    pub attempt: u32,
    /// Processes, each with a replica.
    pub world_size: u32,
    /// `cpu` or `gpu`.
    pub device: String,
    /// Product name of rank 0's GPU or CPU, where it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Version of the GPU's driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Version of CUDA that the GPU computed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
    /// Node that rank 0 ran on, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Version of the trainer.
    pub trainer: String,
    /// Version of libtorch.
    pub libtorch: String,
    /// Digest of the job's whole spec, as the trainer was handed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_digest: Option<String>,
    /// Seed of everything random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    /// Digest of the model that it was retrained from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrained_from: Option<String>,
    /// When it was finished, RFC 3339.
    pub finished: String,
}

/// Version of the format for a new [`Card`].
pub fn format() -> u32 {
    FORMAT
}

/// Writes the files, then the card that names them. Returns the model's digest: that of `model.json`.
pub fn commit(folder: &Folder, mut card: Card, files: &[(&str, &[u8])]) -> Result<String, Fault> {
    folder.check_current()?;
    for (name, bytes) in files {
        card.files.insert((*name).to_owned(), folder.write(name, bytes)?);
    }
    let bytes = serde_json::to_vec_pretty(&card).expect("a card is plain data");
    // To send the files takes a while: the card, which counts, is not for an attempt that was superseded meanwhile.
    folder.check_current()?;
    Ok(folder.write(CARD, &bytes)?)
}

/// A model folder that was read and found whole.
#[derive(Debug)]
pub struct Saved {
    /// Its description.
    pub card: Card,
    /// Digest of `model.json`.
    pub digest: String,
    /// The weights by name.
    pub weights: BTreeMap<String, Tensor>,
}

/// Reads a model folder and checks every digest that its use depends on.
///
/// # Errors
/// [`Cause::DataMissing`] if there is no finished model; [`Cause::BadData`] if a file differs from what the card says,
/// the card is of a later format or another preprocessing, or a weight is not finite.
pub fn open(path: &Path) -> Result<Saved, Fault> {
    let (card, digest_of_card) = read_card(path)?;
    let bad = |what: String| Fault::new(Cause::BadData, format!("{}: {what}", path.join(CARD).display()));
    card.preprocessing.check().map_err(|error| bad(error.to_string()))?;
    if card.preprocessing.hash() != card.preprocessing_hash {
        return Err(bad("its preprocessing is not the one this trainer computes".into())
            .hint("score with the version of the trainer that trained the model, or retrain"));
    }
    let weights = read_safetensors(&read_file(path, &card, WEIGHTS)?)?;
    check_finite(path, &weights)?;
    Ok(Saved { weights, digest: digest_of_card, card })
}

/// That the network can answer at all: of one weight that is no number, every answer becomes none.
fn check_finite(path: &Path, weights: &BTreeMap<String, Tensor>) -> Result<(), Fault> {
    for (name, tensor) in weights.iter().filter(|(_, tensor)| tensor.numel() > 0) {
        // What is no number is less and more than all others.
        let extremes = [tensor.f_min()?.f_double_value(&[])?, tensor.f_max()?.f_double_value(&[])?];
        if let Some(value) = extremes.iter().find(|value| !value.is_finite()) {
            let file = path.join(WEIGHTS);
            let text = format!("{}: {name} holds a value that is not finite ({value})", file.display());
            return Err(Fault::new(Cause::BadData, text)
                .hint("such a model answers no image: train it again at a lower learning rate, or name another one"));
        }
    }
    Ok(())
}

/// Digest of the `model.json` that lies in a folder now; another one than before means another model.
pub fn current_digest(path: &Path) -> std::io::Result<String> {
    Ok(digest(&storage::read_at_most(&path.join(CARD), MAX_CARD_BYTES)?))
}

/// Reads what a model folder says of the model, and the course and the figures of its training.
///
/// # Errors
/// As [`open`], and if the figures were written by a version that had others.
pub fn figures(path: &Path) -> Result<(Card, History), Fault> {
    let (card, _) = read_card(path)?;
    let history = serde_json::from_slice(&read_file(path, &card, METRICS)?).map_err(|error| {
        Fault::new(Cause::BadData, format!("{}: not figures of a training: {error}", path.join(METRICS).display()))
    })?;
    Ok((card, history))
}

/// The card and its digest.
fn read_card(path: &Path) -> Result<(Card, String), Fault> {
    let file = path.join(CARD);
    let bad = |what: String| Fault::new(Cause::BadData, format!("{}: {what}", file.display()));
    let bytes = storage::read_at_most(&file, MAX_CARD_BYTES).map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => bad(format!("more than {MAX_CARD_BYTES} bytes are no model card")),
        _ if !is_remote(path) && path.is_file() => {
            let message = format!("can't read the model {}: it is a file, and a model is a folder", path.display());
            Fault::new(Cause::DataMissing, message).hint("name the folder that holds model.json")
        }
        ErrorKind::NotFound if !is_remote(path) && !path.exists() => {
            let message = format!("can't read the model {}: there is no such folder", path.display());
            Fault::new(Cause::DataMissing, message).hint(
                "check the path, and that the volume that holds it is mounted; a training makes the folder at its end",
            )
        }
        _ => {
            let fault = Fault::io(format_args!("read the model {}", file.display()), error);
            match fault.cause() {
                Cause::DataMissing => {
                    fault.hint("the model folder is complete when model.json is there: has its training succeeded?")
                }
                // What a store that fails says of itself is more to the point.
                _ => fault,
            }
        }
    })?;
    let card: Card = serde_json::from_slice(&bytes).map_err(|error| bad(format!("not a model card: {error}")))?;
    if card.format > FORMAT {
        return Err(bad(format!("written in format {}, and this trainer reads up to {FORMAT}", card.format))
            .hint("use a trainer as new as the one that wrote the model"));
    }
    Ok((card, digest(&bytes)))
}

/// A file that the card names.
fn read_file(path: &Path, card: &Card, name: &str) -> Result<Vec<u8>, Fault> {
    let file = path.join(name);
    let content = storage::read(&file).map_err(|error| Fault::io(format_args!("read {}", file.display()), error))?;
    if card.files.get(name).is_none_or(|recorded| *recorded != digest(&content)) {
        return Err(Fault::new(
            Cause::BadData,
            format!(
                "{}: the digest of {name} is not the recorded one: the file was damaged or changed",
                path.join(CARD).display()
            ),
        ));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_folder_says_what_it_is_instead() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        std::fs::write(&file, "").unwrap();
        for (path, message) in [
            (folder.path().join("nope"), "nope: there is no such folder"),
            (file, "model.safetensors: it is a file, and a model is a folder"),
            (folder.path().to_owned(), "model.json"),
        ] {
            let fault = open(&path).unwrap_err();
            assert_eq!(fault.cause(), Cause::DataMissing, "{fault}");
            assert!(fault.to_string().contains(message), "{fault}");
        }
    }
}
