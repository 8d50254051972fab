//! What is told in JSON: a model by its `model.json`, and a job by its assignment.

use std::fs;

use crds::contract::{CONTRACT_VERSION, Cause};
use serde_json::json;
use tch::{Kind, Tensor};
use tempfile::TempDir;

use super::{Seed, assert_refused, put};
use crate::data::Preprocessing;
use crate::folder::digest;
use crate::metrics::{Epoch, History};
use crate::model::{self, CARD, Card, METRICS, WEIGHTS};
use crate::serve::strangers::endpoint;
use crate::work::{self, Work};
use crate::zoo::write_safetensors;

thread_local! {
    static FOLDER: TempDir = folder();
}

/// Files that are small and right, but for the card.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join(WEIGHTS), weights()).expect("a file");
    fs::write(folder.path().join(METRICS), metrics()).expect("a file");
    folder
}

/// A model folder that is whole, with weights of no network.
#[cfg(test)]
pub(crate) fn model_folder() -> TempDir {
    let folder = folder();
    put(&folder.path().join(CARD), &seeds()[0].bytes);
    folder
}

fn weights() -> Vec<u8> {
    write_safetensors(&[("fc.bias".to_owned(), Tensor::zeros([2], (Kind::Float, tch::Device::Cpu)))]).expect("weights")
}

fn metrics() -> Vec<u8> {
    let history = History { epochs: vec![Epoch { epoch: 1, ..Epoch::default() }], ..History::default() };
    serde_json::to_vec(&history).expect("plain data")
}

/// Opens a model folder with this card.
pub(super) fn read(bytes: &[u8]) -> bool {
    FOLDER.with(|folder| {
        let folder = folder.path();
        put(&folder.join(CARD), bytes);
        let cards = [
            model::open(folder).map(|saved| {
                assert_eq!(saved.card.preprocessing.check(), Ok(()));
                assert_eq!(saved.card.preprocessing.hash(), saved.card.preprocessing_hash);
                assert_eq!(saved.digest, digest(bytes));
                saved.card
            }),
            model::figures(folder).map(|(card, _)| card),
        ];
        let is_card = cards[0].is_ok();
        for card in cards {
            match card {
                Ok(card) => {
                    let json = serde_json::to_vec(&card).expect("plain data");
                    assert_eq!(serde_json::from_slice::<Card>(&json).expect("what was written"), card);
                }
                Err(fault) => {
                    assert_eq!(fault.cause(), Cause::BadData, "{fault}");
                    assert_refused(&fault);
                }
            }
        }
        is_card
    })
}

pub(super) fn seeds() -> Vec<Seed> {
    let preprocessing = Preprocessing::for_size(32);
    let card = json!({
        "format": model::format(), "architecture": "resnet18", "classes": ["cat", "dog"],
        "preprocessing": preprocessing, "preprocessingHash": preprocessing.hash(), "threshold": 0.25, "accuracy": 0.75,
        "recipe": {
            "task": "ImageClassification", "model": {"architecture": "resnet18"}, "data": {"uri": "file:///data"},
            "training": {"epochs": 3},
        },
        "origin": {
            "job": "TrainingJob a/b", "uid": "u", "attempt": 1, "worldSize": 2, "device": "cpu", "trainer": "0.1.0",
            "libtorch": "2.11.0", "finished": "2026-01-01T00:00:00Z",
        },
        "files": {WEIGHTS: digest(&weights()), METRICS: digest(&metrics())},
    });
    vec![Seed::new("card", card.to_string())]
}

/// Reads an assignment, as a worker and as a server.
pub(super) fn assignment(bytes: &[u8]) -> bool {
    // What is in the environment and no UTF-8 is refused before anything reads it.
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let is_work = match work::assigned(text) {
        Ok(work) => {
            let written = match &work {
                Work::Training(job) => serde_json::to_string(job),
                Work::Scoring(job) => serde_json::to_string(job),
            };
            let again = work::assigned(&written.expect("plain data")).expect("what was written");
            assert!(again == work, "{work:?} is read again as {again:?}");
            true
        }
        Err(fault) => {
            assert_eq!(fault.cause(), Cause::BadSpec, "{fault}");
            assert_refused(&fault);
            false
        }
    };
    is_work | endpoint(text)
}

pub(super) fn assignments() -> Vec<Seed> {
    let seed = |kind: &str, spec: serde_json::Value| {
        let assignment = json!({
            "contractVersion": CONTRACT_VERSION, "kind": kind, "name": "digits", "namespace": "a", "uid": "u", "attempt": 3,
            "member": 0, "members": 1, "spec": spec,
        });
        Seed::new(kind, assignment.to_string())
    };
    vec![
        seed(
            "TrainingJob",
            json!({
                "data": {"uri": "file:///data", "imageSize": 64, "validation": {"fraction": 0.2}},
                "model": {"architecture": "resnet18", "fineTuning": {"strategy": "All"}},
                "training": {"epochs": 2, "batchSize": 8, "optimizer": {"name": "AdamW", "learningRate": 0.001}},
                "infrastructure": {"device": "Cpu", "processesPerNode": 2}, "output": {"uri": "file:///out"},
            }),
        ),
        seed(
            "ScoringJob",
            json!({
                "model": {"uri": "file:///model"}, "data": {"uri": "file:///data"}, "evaluate": true,
                "output": {"uri": "file:///out", "format": "Csv"},
            }),
        ),
        seed(
            "ModelEndpoint",
            json!({
                "model": {"uri": "file:///model"}, "explain": true, "precision": "BFloat16",
                "batching": {"maxBatchSize": 4, "maxDelayMilliseconds": 7, "maxQueue": 9}, "limits": {"timeoutSeconds": 11},
            }),
        ),
    ]
}
