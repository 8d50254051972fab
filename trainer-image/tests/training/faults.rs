//! What can't be done, or not any more, is said with its cause.

use std::fs;
use std::time::Instant;

use crds::contract::Cause;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::bench::{Bench, wait_until};

#[test]
fn a_loss_that_is_not_finite_ends_the_training_and_leaves_the_last_good_checkpoint() {
    let bench = Bench::new(20);
    let mut spec = bench.training("exploded");
    // Each step makes the weights 999 times as large.
    spec["training"] = json!({
        "epochs": 12, "batchSize": 4, "schedule": {"name": "Constant"},
        "optimizer": {"name": "Sgd", "learningRate": 100.0, "momentum": 0.0, "weightDecay": 10.0},
    });
    spec["output"]["checkpoint"] = json!({"everySteps": 1, "keep": 2});
    let (code, message) = bench.start("TrainingJob", "exploded", &spec, 1).end();
    assert_eq!((code, message.cause), (73, Cause::NotFinite), "{message:?}");
    let step = message.step.expect("a step");
    let newest = bench.checkpoints("exploded").pop().expect("a checkpoint");
    assert!(newest < format!("step-{step:09}"), "{newest} of step {step}");
    for checkpoint in bench.checkpoints("exploded") {
        let state = bench.path("exploded").join("checkpoints").join(checkpoint).join("state.safetensors");
        let tensors = trainer::zoo::read_safetensors(&fs::read(state).unwrap()).unwrap();
        for (name, tensor) in tensors.iter().filter(|(_, tensor)| tensor.kind() == tch::Kind::Float) {
            assert_eq!(tensor.isfinite().all().int64_value(&[]), 1, "{name}");
        }
    }
}

/// The loss of the last step is that of the weights before it.
#[test]
fn a_model_that_the_last_step_has_spoilt_is_not_written() {
    let bench = Bench::new(4);
    let mut spec = bench.training("spoilt");
    spec["data"]["validation"] = json!({"fraction": 0.0});
    spec["training"] =
        json!({"epochs": 1, "batchSize": 4, "optimizer": {"name": "Sgd", "learningRate": 1e30, "weightDecay": 1e30}});
    let (code, message) = bench.start("TrainingJob", "spoilt", &spec, 1).end();
    assert_eq!((code, message.cause, message.step), (73, Cause::NotFinite, Some(1)), "{message:?}");
    assert!(!bench.path("spoilt/model.json").exists());
}

#[test]
fn what_can_not_be_done_is_said_with_its_cause() {
    let bench = Bench::new(4);
    fs::create_dir_all(bench.path("empty")).unwrap();
    let mut broken = bench.training("broken");
    fs::create_dir_all(bench.path("spoilt/left")).unwrap();
    fs::create_dir_all(bench.path("spoilt/right")).unwrap();
    for class in ["left", "right"] {
        for index in 0..3 {
            fs::write(bench.path(&format!("spoilt/{class}/{index}.png")), b"").unwrap();
        }
    }
    broken["data"]["uri"] = json!(bench.uri("spoilt"));
    let with = |field: &str, value: Value| {
        let mut spec = bench.training("output");
        let (block, name) = field.split_once('.').unwrap();
        spec[block][name] = value;
        spec
    };
    let table = [
        ("missing", with("data.uri", json!(bench.uri("nowhere"))), Cause::DataMissing, "nowhere"),
        ("empty", with("data.uri", json!(bench.uri("empty"))), Cause::BadData, "empty"),
        ("spoilt", broken, Cause::BadData, "spoilt"),
        ("gpu", with("infrastructure.device", json!("Gpu")), Cause::GpuUnsupported, "GPU"),
        (
            "weights",
            with("training.classWeights", json!({"mode": "Given", "weights": {"middle": 2.0}})),
            Cause::BadSpec,
            "classWeights names middle, and the data has the classes left, right",
        ),
        (
            "single",
            {
                let mut spec = with("training.batchSize", json!(1));
                spec["output"]["uri"] = json!(bench.uri("single"));
                spec
            },
            Cause::BadSpec,
            "Expected more than 1 value per channel when training, got input size [1, 512, 1, 1]; set training.batchSize to 2",
        ),
        (
            "explosion",
            {
                let mut spec = with("training.optimizer", json!({"name": "Sgd", "learningRate": 1e30}));
                spec["output"]["uri"] = json!(bench.uri("explosion"));
                spec
            },
            Cause::NotFinite,
            "NaN",
        ),
    ];
    for (name, spec, cause, says) in table {
        let (code, message) = bench.start("TrainingJob", name, &spec, 1).end();
        assert_eq!((code, message.cause), (cause.exit_code(), cause), "{name}: {message:?}");
        assert!(message.message.contains(says), "{name}: {message:?}");
    }
}

#[test]
fn an_output_belongs_to_the_job_that_came_first() {
    let bench = Bench::new(4);
    bench.start("TrainingJob", "first", &bench.training("shared"), 1).succeed();
    let (code, message) = bench.start("TrainingJob", "second", &bench.training("shared"), 1).end();
    assert_eq!(code, Cause::BadSpec.exit_code(), "{message:?}");
    assert!(message.message.contains("TrainingJob default/first"), "{message:?}");
}

#[test]
fn a_process_that_stands_still_is_named_when_the_job_s_time_for_a_collective_is_over() {
    let bench = Bench::new(20);
    let mut spec = bench.training("late");
    spec["training"]["epochs"] = json!(10_000);
    spec["training"]["collectiveTimeoutSeconds"] = json!(10);
    let pod = bench.start("TrainingJob", "late", &spec, 1);
    wait_until("step", || pod.log().contains("epoch done"));
    let late = pod.rank(1);
    kill(late, Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    wait_until("end of the other rank", || pod.log().contains("did not come"));
    let took = stopped.elapsed();
    // The job's time, and not the five minutes of a job that says nothing.
    assert!((9..120).contains(&took.as_secs()), "{took:?}");
    // The other rank has ended: one that goes on before that may end first, and would tell who was late for it.
    wait_until("the launcher's stop", || pod.log().contains("stopping the others"));
    // Otherwise the launcher waits out the time that processes have to stop.
    kill(late, Signal::SIGCONT).unwrap();
    let (code, message) = pod.end();
    assert_eq!((code, message.cause), (Cause::PeerLost.exit_code(), Cause::PeerLost), "{message:?}");
    assert!(message.message.contains("1 of 2 ranks did not come: 1;"), "{message:?}");
    assert!(message.message.contains("(gloo:"), "{message:?}");
}
