//! Several processes that come to the end of a job together.

use std::collections::BTreeMap;
use std::fs;

use crds::model::Architecture;
use crds::scoring_job::RowFormat;
use serde_json::json;

use super::*;
use crate::data::Preprocessing;
use crate::model::Origin;
use crate::score::output::{InputsDone, Prediction, RowCounts};

const UNTOUCHED: &[u8] = b"as the peer wrote it";

fn judge(root: &Path) -> Judge {
    let preprocessing = Preprocessing::for_size(32);
    let recipe = json!({
        "task": "ImageClassification", "model": {"architecture": "resnet18"}, "data": {"uri": "file:///data"},
        "training": {},
    });
    let classes: Vec<String> = ["left", "right"].map(str::to_owned).into();
    let card = Card {
        format: model::format(),
        architecture: Architecture::Resnet18,
        classes: classes.clone(),
        preprocessing_hash: preprocessing.hash(),
        preprocessing,
        threshold: None,
        accuracy: None,
        recipe: serde_json::from_value(recipe).unwrap(),
        origin: Origin::default(),
        files: BTreeMap::new(),
    };
    let subject = Subject {
        model: root.join("model"),
        model_digest: "sha256:0".to_owned(),
        card,
        data: "file:///data".to_owned(),
        images: Dataset {
            root: root.join("images"),
            classes,
            samples: Vec::new(),
            archive: None,
            strangers: BTreeMap::new(),
        },
        output: "file:///scores".to_owned(),
        job: owner(),
    };
    let folder = root.join("scores");
    fs::create_dir_all(&folder).unwrap();
    Judge::new(&folder, subject)
}

fn owner() -> Owner {
    Owner { uid: "u".to_owned(), name: "ScoringJob default/a".to_owned(), attempt: 1, created: None }
}

fn manifest() -> Manifest {
    Manifest {
        version: 1,
        job: owner(),
        model_digest: "sha256:0".to_owned(),
        format: RowFormat::Csv,
        schema: Vec::new(),
        inputs: InputsDone {
            count: 4,
            digest: "sha256:2".to_owned(),
            images_digest: "sha256:1".to_owned(),
            note: None,
        },
        rows: RowCounts { inputs: 4, written: 4, failed: 0 },
        files: Vec::new(),
    }
}

/// Keeps the figures of a shard's two images, of which `right` are judged rightly.
fn note(judge: &Judge, shard: u32, right: usize) {
    let start = 2 * shard as usize;
    let samples: Vec<Sample> =
        (0..2).map(|index| Sample { path: format!("{}.png", start + index).into(), label: Some(0) }).collect();
    let row = |index: usize| {
        let probability = if index < right { 0.75 } else { 0.25 };
        Ok(Prediction { class: usize::from(index >= right), probabilities: vec![probability, 1.0 - probability] })
    };
    judge.note(shard, &(start..start + 2), &[row(0), row(1)], &samples).unwrap();
}

#[test]
fn who_comes_to_the_end_after_a_peer_takes_its_figures_and_touches_no_report() {
    let root = tempfile::tempdir().unwrap();
    let [first, second] = [judge(root.path()), judge(root.path())];
    note(&first, 0, 2);
    note(&second, 1, 1);
    let judgement = first.conclude(&manifest()).unwrap();
    assert_eq!((judgement.accuracy, judgement.note), (0.75, None));
    let report = root.path().join("scores").join(REPORT);
    assert!(fs::read_to_string(&report).unwrap().contains("Evaluation report"));
    fs::write(&report, UNTOUCHED).unwrap();
    // The second one saw no figures before, and the notes are gone; or some of them still lie there.
    for some in [false, true] {
        if some {
            note(&second, 1, 0);
        }
        assert_eq!(second.reach(&manifest()).unwrap().summary.accuracy, 0.75);
        assert_eq!(fs::read(&report).unwrap(), UNTOUCHED);
    }
}

#[test]
fn without_notes_and_figures_there_is_nothing_to_judge() {
    let root = tempfile::tempdir().unwrap();
    let fault = judge(root.path()).conclude(&manifest()).err().unwrap();
    assert!(fault.to_string().contains("can't list"), "{fault}");
    assert!(!root.path().join("scores").join(REPORT).exists());
}
