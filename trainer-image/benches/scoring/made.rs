//! Models and lists of images to score: made, since rates depend on neither.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crds::model::Architecture;
use serde_json::json;
use tch::Device;
use trainer::data::Preprocessing;
use trainer::folder::{Folder, Owner};
use trainer::model::{self, Card, Origin, Saved, WEIGHTS};
use trainer::zoo::{Blueprint, Model, write_safetensors};

/// A model with random weights.
pub(crate) fn model(architecture: Architecture, size: u32, classes: i64) -> Result<Saved, Box<dyn Error>> {
    let preprocessing = Preprocessing::for_size(size);
    let network = Model::new(Blueprint { architecture, classes, image_size: i64::from(size) }, 1, Device::Cpu)?;
    let recipe = json!({
        "task": "ImageClassification", "model": {"architecture": architecture.name()}, "data": {"uri": "file:///none"},
        "training": {},
    });
    let card = Card {
        format: model::format(),
        architecture,
        classes: (0..classes).map(|class| class.to_string()).collect(),
        preprocessing_hash: preprocessing.hash(),
        preprocessing,
        threshold: None,
        accuracy: None,
        recipe: serde_json::from_value(recipe)?,
        origin: Origin::default(),
        files: BTreeMap::new(),
    };
    Ok(Saved { card, digest: "sha256:0".into(), weights: network.state().snapshot().into_iter().collect() })
}

/// The folder of such a model, made once.
pub(crate) fn folder(
    path: &Path,
    architecture: Architecture,
    size: u32,
    classes: i64,
) -> Result<PathBuf, Box<dyn Error>> {
    if !path.join(model::CARD).exists() {
        let saved = model(architecture, size, classes)?;
        let owner = Owner { uid: "bench".into(), name: "TrainingJob default/bench".into(), attempt: 1, created: None };
        let weights = write_safetensors(&saved.weights.into_iter().collect::<Vec<_>>())?;
        model::commit(&Folder::claim(path, &owner)?, saved.card, &[(WEIGHTS, &weights)])
            .map_err(|fault| fault.to_string())?;
    }
    Ok(path.to_owned())
}

/// A table that lists the images of a folder of class folders, each `times`.
pub(crate) fn list(folder: &Path, times: usize) -> Result<PathBuf, Box<dyn Error>> {
    let mut images = Vec::new();
    for class in fs::read_dir(folder)?.flatten().filter(|entry| entry.path().is_dir()) {
        for image in fs::read_dir(class.path())?.flatten() {
            images.push(image.path().strip_prefix(folder)?.display().to_string());
        }
    }
    images.sort();
    let mut table = "image\n".to_owned();
    for image in (0..times).flat_map(|_| &images) {
        writeln!(table, "{image}")?;
    }
    let path = folder.join("list.csv");
    fs::write(&path, table)?;
    Ok(path)
}
