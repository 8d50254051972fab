//! Every command of the README and of the guide is executed as it stands there: on this machine with a model that is really trained, and
//! on a control plane with an operator, where the nodes and the pods' lives are played.

mod cluster;
mod here;
mod story;

use std::collections::BTreeSet;
use std::process::Command;

use crds::check::read;
use serde_json::{Value, json};
use tests::chart::Ran;
use tests::image::Product;

use crate::story::{blocks, commands, root, text};

/// Lines that the README has at most: it is read to its end.
const LINES: usize = 249;
/// Not executed: what runs these tests, what comes to the same as the commands that `here` runs, and what takes a release build. That
/// make knows them is.
const MAKE: [&str; 4] = ["make run", "make test", "make build", "make images"];
/// Not executed: nothing is pushed from a test. What is pushed is what the values name, and that the archives are what such programs
/// read is held by `tests::image`.
const NEEDS_A_REGISTRY: [&str; 4] = [
    "skopeo copy oci-archive:target/images/operator.tar docker://registry.example/trainyard/operator:0.1.0",
    "skopeo copy oci-archive:target/images/trainer.tar docker://registry.example/trainyard/trainer:0.1.0-cpu",
    "docker build -f trainer-image/Containerfile.cuda -t registry.example/trainyard/trainer:0.1.0-cuda-13.0 .",
    "docker push registry.example/trainyard/trainer:0.1.0-cuda-13.0",
];
/// Not executed: it takes a container with a shell's programs, as only an image from a registry has them.
const NEEDS_BUSYBOX: [&str; 1] = ["kubectl cp flowers fill:/datasets/flowers"];
/// Typed by the tests on real nodes, in `tests/e2e`.
const ON_REAL_NODES: [&str; 1] = [tests::told::FOLLOW];

#[test]
fn no_command_is_left_out() {
    let told: BTreeSet<String> = commands().into_iter().collect();
    let apart = [&MAKE[..], &NEEDS_A_REGISTRY, &NEEDS_BUSYBOX, &ON_REAL_NODES].concat();
    let all = [&apart[..], &here::COMMANDS, &cluster::COMMANDS].concat();
    let executed: BTreeSet<String> = all.into_iter().map(str::to_owned).collect();
    let difference: Vec<&String> = told.symmetric_difference(&executed).collect();
    assert!(difference.is_empty(), "told and not executed, or the other way round: {difference:#?}");
}

#[test]
fn make_knows_what_it_is_told() {
    for command in MAKE {
        let mut make = Command::new("make");
        make.arg("--dry-run").args(command.split(' ').skip(1)).current_dir(root());
        // Those of the make that runs this test.
        for variable in ["MAKEFLAGS", "MAKELEVEL", "MFLAGS"] {
            make.env_remove(variable);
        }
        assert!(!Ran::of(&mut make).good().is_empty(), "{command}");
    }
}

#[test]
fn what_is_pushed_is_what_the_values_name() {
    let pushed: BTreeSet<String> = NEEDS_A_REGISTRY
        .iter()
        .filter(|command| !command.starts_with("docker build"))
        .filter_map(|command| command.rsplit(' ').next().map(|image| image.trim_start_matches("docker://").to_owned()))
        .collect();
    let values: Value = serde_saphyr::from_str(&cluster::values()).expect("values");
    let operator = values["image"]["repository"].as_str().map(|name| format!("{name}:{}", env!("CARGO_PKG_VERSION")));
    let runtimes = values["runtimes"].as_array().into_iter().flatten();
    let runtimes = runtimes.filter_map(|runtime| runtime["image"].as_str().map(str::to_owned));
    assert_eq!(pushed, operator.into_iter().chain(runtimes).collect());
    for product in Product::ALL {
        let archive = format!("oci-archive:target/images/{}.tar ", product.name());
        assert!(NEEDS_A_REGISTRY.iter().any(|command| command.contains(&archive)), "{archive} is not pushed");
    }
    let built =
        NEEDS_A_REGISTRY.iter().filter_map(|command| command.strip_prefix("docker build -f ")?.split(' ').next());
    for containerfile in built {
        assert!(root().join(containerfile).is_file(), "{containerfile}");
    }
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
