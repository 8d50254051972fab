//! `trainyard validate`, `crds` and `completions`.

use crate::yard::Yard;
use serde_json::{Value, json};

#[test]
fn validate_tells_each_fault_at_its_place() {
    let yard = Yard::training(&[]);
    let good = yard.trainyard(&["validate", "-f", "job.yaml"]);
    assert_eq!((good.code, good.out.as_str()), (0, "1 manifest is valid\n"));

    yard.edit("epochs: 2", "epochs: none");
    let bad = yard.trainyard(&["validate", "-f", "job.yaml"]);
    assert_eq!(bad.code, 64);
    assert!(bad.err.starts_with("job.yaml:9:13: spec.training.epochs: "), "{bad:?}");
    assert!(bad.err.contains("\n  9 |     epochs: none\n    |             ^^^^"), "{bad:?}");
}

#[test]
fn validate_writes_json_for_programs() {
    let yard = Yard::training(&[]);
    yard.edit("epochs: 2", "epocs: 2");
    let bad = yard.trainyard(&["validate", "-f", "job.yaml", "-o", "json"]);
    let faults: Value = serde_json::from_str(&bad.out).expect("JSON");
    assert_eq!(bad.code, 64);
    assert_eq!(
        faults,
        json!([{
            "file": "job.yaml", "line": 9, "column": 5, "severity": "error", "path": "spec.training.epocs",
            "message": "is not a field", "hint": "Did you mean epochs?",
        }])
    );
}

#[test]
fn the_examples_are_valid_but_for_what_this_version_does_not_have() {
    let yard = Yard::training(&[]);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/examples");
    let mut examples: Vec<_> =
        std::fs::read_dir(folder).expect("examples").flatten().map(|entry| entry.path()).collect();
    // The claims are of Kubernetes' own kinds.
    examples.retain(|path| path.extension().is_some_and(|ending| ending == "yaml") && !path.ends_with("claims.yaml"));
    assert!(!examples.is_empty());
    for example in examples {
        let ran = yard.trainyard(&["validate", "-o", "json", "-f", &example.display().to_string()]);
        let faults: Vec<Value> = serde_json::from_str(&ran.out).expect("JSON");
        let wrong: Vec<&Value> = faults
            .iter()
            .filter(|fault| fault["severity"] == "error")
            .filter(|fault| {
                !fault["message"].as_str().is_some_and(|text| text.contains("not supported by this version"))
            })
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn crds_prints_the_three_definitions() {
    let yard = Yard::training(&[]);
    let ran = yard.trainyard(&["crds"]);
    let names: Vec<&str> = ran.out.lines().filter(|line| line.starts_with("  name: ")).collect();
    assert_eq!(
        names,
        ["modelendpoints", "scoringjobs", "trainingjobs"].map(|name| format!("  name: {name}.trainyard.dev"))
    );
    assert_eq!(ran.out.matches("\n---\n").count(), 2, "one document each");
}

#[test]
fn completions_are_there_for_each_shell() {
    let yard = Yard::training(&[]);
    for shell in ["bash", "zsh", "fish"] {
        let ran = yard.trainyard(&["completions", shell]);
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("trainyard"), "{shell}");
    }
    assert_eq!(yard.trainyard(&["completions", "tcsh"]).code, 2);
}

#[test]
fn explain_says_what_a_code_means_and_what_to_do() {
    let yard = Yard::training(&[]);
    let told = yard.trainyard(&["explain", "161"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.starts_with("161 PeerLost\n\nAnother process went away"), "{told:?}");
    assert!(!told.out.contains("162 Storage"), "{told:?}");
    assert_eq!(yard.trainyard(&["explain", "PeerLost"]).out, told.out);
    let all = yard.trainyard(&["explain"]);
    assert!(all.out.contains("## 64 BadSpec") && all.out.contains("## Other codes"), "{all:?}");
    let mistyped = yard.trainyard(&["explain", "peers"]);
    assert_eq!(mistyped.code, 2);
    assert!(mistyped.err.contains("write an exit code from 0 to 255 or a cause's name"), "{mistyped:?}");
}

/// A kubeconfig that is not there.
const NOWHERE: [&str; 2] = ["--kubeconfig", "/nowhere/kubeconfig"];

#[test]
fn version_tells_of_this_program_where_there_is_no_cluster() {
    let yard = Yard::training(&[]);
    let ours = yard.trainyard(&["version", "--client"]);
    let told = yard.trainyard(&[&["version"], &NOWHERE[..]].concat());
    assert_eq!((told.code, &told.out), (3, &ours.out), "{told:?}");
    assert!(ours.out.starts_with("client ") && told.err.starts_with("can't find a cluster"), "{told:?}");
}

#[test]
fn a_job_of_this_machine_that_a_cluster_is_asked_for_is_pointed_at() {
    let yard = Yard::training(&["ok"]);
    let before = yard.trainyard(&[&["status", "digits"], &NOWHERE[..]].concat());
    assert!(before.code == 3 && !before.err.contains("on this machine"), "{before:?}");
    assert_eq!(yard.run(&[]).code, 0);
    for typed in [["status", "digits"], ["logs", "tj/digits"], ["report", "digits"], ["events", "digits"]] {
        let told = yard.trainyard(&[&typed, &NOWHERE[..]].concat());
        assert_eq!(told.code, 3, "{told:?}");
        let place =
            "The TrainingJob digits was run on this machine: .trainyard/jobs/local.TrainingJob.digits has status.json";
        assert!(told.err.contains(place), "{typed:?}: {told:?}");
    }
}

#[test]
fn switches_of_the_operator_may_be_1_in_the_environment() {
    let yard = Yard::training(&[]);
    for (value, taken) in [("1", true), ("false", true), ("perhaps", false)] {
        let mut command = yard.command(&["operator", "--catalogue", "nowhere.yaml"]);
        command.envs([("TRAINYARD_NO_NODES", value), ("TRAINYARD_AUTOSCALED", value)]);
        let ended = command.output().expect("trainyard starts");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(said.contains("can't read nowhere.yaml"), taken, "{value}: {said}");
    }
}
