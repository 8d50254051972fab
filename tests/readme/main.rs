//! Every command of the README and of the guide is executed as it stands there: on this machine with a model that is really trained, and
//! on a control plane with an operator, where the nodes and the pods' lives are played.

mod cluster;
mod here;
mod story;

use std::collections::BTreeSet;

use crds::check::read;
use serde_json::{Value, json};

use crate::story::{blocks, commands, text};

/// Lines that the README has at most: it is read to its end.
const LINES: usize = 249;
/// What runs these tests, what comes to the same as the commands that `here` runs, and what takes a release build.
const MAKE: [&str; 4] = ["make run", "make test", "make build", "make images"];
/// Nothing is pushed from a test. That the archives are what such programs read is held by `tests::image`.
const NEEDS_A_REGISTRY: [&str; 4] = [
    "skopeo copy oci-archive:target/images/operator.tar docker://registry.example/trainyard/operator:0.1.0",
    "skopeo copy oci-archive:target/images/trainer.tar docker://registry.example/trainyard/trainer:0.1.0-cpu",
    "docker build -f trainer-image/Containerfile.cuda -t registry.example/trainyard/trainer:0.1.0-cuda-13.0 .",
    "docker push registry.example/trainyard/trainer:0.1.0-cuda-13.0",
];
/// A played node has no logs and no files.
const NEEDS_A_KUBELET: [&str; 2] = ["trainyard logs flowers -f", "kubectl cp flowers fill:/datasets/flowers"];

#[test]
fn no_command_is_left_out() {
    let told: BTreeSet<String> = commands().into_iter().collect();
    let all = [&MAKE[..], &NEEDS_A_REGISTRY, &NEEDS_A_KUBELET, &here::COMMANDS, &cluster::COMMANDS].concat();
    let executed: BTreeSet<String> = all.into_iter().map(str::to_owned).collect();
    let difference: Vec<&String> = told.symmetric_difference(&executed).collect();
    assert!(difference.is_empty(), "told and not executed, or the other way round: {difference:#?}");
}

#[test]
fn the_readme_is_short() {
    let lines = text("README.md").lines().count();
    assert!(lines <= LINES, "the README has {lines} lines: move what is read once to crds/GUIDE.md");
}

#[test]
fn the_versions_that_are_told_are_this_one() {
    let version = env!("CARGO_PKG_VERSION");
    let told = text("README.md");
    let images = told.split("registry.example/trainyard/").skip(1);
    let images = images.map(|rest| rest.split([' ', '"', '\n']).next().unwrap_or_default());
    let tags = images.filter_map(|image| Some(image.split_once(':')?.1.split('-').next().unwrap_or_default()));
    let tags: Vec<&str> = tags.collect();
    assert!(tags.len() >= 4 && tags.iter().all(|tag| *tag == version), "{tags:?}");
}

#[test]
fn fragments_of_a_spec_are_fields_that_there_are() {
    for block in blocks("yaml").iter().filter(|block| block.starts_with("infrastructure:")) {
        let fragment: Value = serde_saphyr::from_str(block).unwrap_or_else(|fault| panic!("{fault}:\n{block}"));
        let job = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "a"},
            "spec": {
                "data": {"uri": "pvc://datasets/a"}, "output": {"uri": "pvc://models/a"},
                "infrastructure": fragment["infrastructure"],
            },
        });
        let faults = read(&job).map(|job| job.meaning());
        assert_eq!(faults, Ok(Vec::new()), "{block}");
    }
}
