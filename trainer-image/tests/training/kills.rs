//! Kills, stops and damage: the same bits come as without them.

use std::fs;
use std::time::{Duration, Instant};

use crds::contract::{CONTRACT_VERSION, Cause, env};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::bench::{Bench, rows, wait_until};

#[test]
fn a_training_that_is_killed_again_and_again_ends_with_the_same_bits() {
    let bench = Bench::new(20);
    bench.start("TrainingJob", "calm", &bench.training("calm"), 1).succeed();
    let mut attempt = 0;
    for checkpoints in 1..=2 {
        attempt += 1;
        let pod = bench.start("TrainingJob", "stormy", &bench.training("stormy"), attempt);
        wait_until("new checkpoint", || {
            bench.checkpoints("stormy").last().is_some_and(|last| *last >= format!("step-{:09}", checkpoints * 3))
        });
        pod.kill();
    }
    bench.start("TrainingJob", "stormy", &bench.training("stormy"), attempt + 1).succeed();
    assert!(bench.weights("calm") == bench.weights("stormy"), "the weights differ");
    let log = fs::read_to_string(bench.path(&format!("stormy-{}.log", attempt + 1))).unwrap();
    assert!(log.contains("resumed from a checkpoint"), "{log}");
}

#[test]
fn a_training_goes_on_with_another_number_of_processes() {
    let bench = Bench::new(20);
    for (name, first, then) in [("fewer", (2, 4), (1, 8)), ("more", (1, 8), (2, 4))] {
        // Eight images a step in all, whoever takes them.
        let spec = |(processes, batch): (u32, u32)| {
            let mut spec = bench.training(name);
            spec["infrastructure"]["processesPerNode"] = json!(processes);
            spec["training"]["batchSize"] = json!(batch);
            spec
        };
        let pod = bench.start("TrainingJob", name, &spec(first), 1);
        wait_until("checkpoint", || !bench.checkpoints(name).is_empty());
        pod.kill();
        let done = bench.start("TrainingJob", name, &spec(then), 2);
        let log = done.log.clone();
        done.succeed();
        assert!(fs::read_to_string(log).unwrap().contains("resumed from a checkpoint"), "{name}");
        let metrics = bench.metrics(name);
        let steps: Vec<u64> =
            metrics["epochs"].as_array().unwrap().iter().map(|epoch| epoch["steps"].as_u64().unwrap()).collect();
        assert_eq!(steps, [4, 8, 12], "{name}");
    }
}

#[test]
fn a_job_that_was_deleted_and_is_created_anew_goes_on_to_the_same_bits() {
    let bench = Bench::new(20);
    bench.start("TrainingJob", "calm", &bench.training("calm"), 1).succeed();
    let start = |spec: &Value, created: i64| {
        let assignment = json!({
            "contractVersion": CONTRACT_VERSION, "kind": "TrainingJob", "name": "anew", "namespace": "default",
            "uid": format!("created-{created}"), "created": created, "attempt": 1, "member": 0, "members": 1, "spec": spec,
        });
        bench.start_with("TrainingJob", "anew", spec, 1, &[(env::ASSIGNMENT, &assignment.to_string())])
    };
    let refused = |spec: &Value, created: i64, said: &str| {
        let (code, message) = start(spec, created).end();
        assert_eq!(code, 64, "{message:?}");
        assert!(message.message.contains(said), "{message:?}");
    };
    let spec = bench.training("anew");
    let pod = start(&spec, 10);
    wait_until("checkpoint", || !bench.checkpoints("anew").is_empty());
    pod.kill();
    // However far it came.
    let _ = fs::remove_file(bench.path("anew/model.json"));
    let mut other = spec.clone();
    other["training"]["optimizer"]["learningRate"] = json!(0.002);
    refused(&other, 20, "made with another training.optimizer.learningRate");
    refused(&spec, 10, "taken over by TrainingJob default/anew (UID created-20)");
    let done = start(&spec, 30);
    let log = done.log.clone();
    done.succeed();
    assert!(fs::read_to_string(log).unwrap().contains("resumed from a checkpoint"));
    assert!(bench.weights("calm") == bench.weights("anew"), "the weights differ");
    refused(&spec, 40, "belongs to TrainingJob default/anew (UID created-30)");
}

/// A recipe with everything that has a state or draws numbers, beside what [`Bench::training`] has.
fn rich(mut spec: Value, precision: &str, epochs: usize) -> Value {
    spec["training"] = json!({
        "epochs": epochs, "batchSize": 2, "gradientAccumulation": 2, "gradientClipNorm": 1.0, "precision": precision,
        "optimizer": {"name": "RmsProp", "learningRate": 0.001, "momentum": 0.9}, "warmupSteps": 2,
        "schedule": {"name": "Plateau", "patience": 0, "gamma": 0.5}, "emaDecay": 0.9, "labelSmoothing": 0.1,
        "earlyStopping": {"patience": 3}, "classWeights": {"mode": "Given", "weights": {"left": 2.0}},
    });
    spec["data"]["imageSize"] = json!(16);
    spec["data"]["augmentation"] = json!({"policy": "RandAugment", "mixup": 0.2, "cutmix": 1.0});
    spec
}

#[test]
fn a_rich_recipe_that_is_killed_ends_with_the_same_bits_in_each_precision() {
    // CPUs are slow with 16 bits.
    for (precision, epochs) in [("Float32", 3), ("Float16", 2)] {
        let bench = Bench::new(20);
        bench.start("TrainingJob", "calm", &rich(bench.training("calm"), precision, epochs), 1).succeed();
        let pod = bench.start("TrainingJob", "stormy", &rich(bench.training("stormy"), precision, epochs), 1);
        wait_until("checkpoint of the second epoch", || {
            bench.checkpoints("stormy").last().is_some_and(|last| last.as_str() >= "step-000000006")
        });
        pod.kill();
        bench.start("TrainingJob", "stormy", &rich(bench.training("stormy"), precision, epochs), 2).succeed();
        assert!(bench.weights("calm") == bench.weights("stormy"), "the weights differ with {precision}");
        let log = fs::read_to_string(bench.path("stormy-2.log")).unwrap();
        assert!(log.contains("resumed from a checkpoint"), "{log}");
        let figures = |output: &str| -> Vec<f64> {
            let metrics = bench.metrics(output);
            let epochs = metrics["epochs"].as_array().unwrap().iter();
            epochs
                .flat_map(|epoch| ["learningRate", "validationLoss"].map(|name| epoch[name].as_f64().unwrap()))
                .collect()
        };
        // What was in a checkpoint has been through decimal digits.
        let apart = |(calm, stormy): (f64, f64)| (calm - stormy).abs() > 1e-12;
        let (calm, stormy) = (figures("calm"), figures("stormy"));
        assert!(
            calm.len() == 2 * epochs && !calm.iter().copied().zip(stormy.clone()).any(apart),
            "{calm:?} and {stormy:?}"
        );
    }
}

#[test]
fn a_request_to_stop_commits_a_checkpoint_from_which_the_same_bits_come() {
    let bench = Bench::new(20);
    bench.start("TrainingJob", "calm", &bench.training("calm"), 1).succeed();
    let pod = bench.start("TrainingJob", "stopped", &bench.training("stopped"), 1);
    wait_until("checkpoint", || !bench.checkpoints("stopped").is_empty());
    pod.signal(Signal::SIGTERM);
    let (code, message) = pod.end();
    assert_eq!((code, message.cause), (143, Cause::Preempted), "{message:?}");
    let step = message.step.expect("a step");
    assert_eq!(bench.checkpoints("stopped").last(), Some(&format!("step-{step:09}")));
    bench.start("TrainingJob", "stopped", &bench.training("stopped"), 2).succeed();
    assert!(bench.weights("calm") == bench.weights("stopped"), "the weights differ");
}

/// A training of one step an epoch that is validated on so many images.
fn with_validation(bench: &Bench, output: &str, images: usize) -> Value {
    for class in ["left", "right"] {
        let folder = bench.path("validation").join(class);
        fs::create_dir_all(&folder).unwrap();
        for copy in 0..images / 2 {
            fs::hard_link(bench.path(&format!("images/{class}/000.png")), folder.join(format!("{copy}.png"))).unwrap();
        }
    }
    let mut spec = bench.training(output);
    spec["data"]["imageSize"] = json!(224);
    spec["data"]["validation"] = json!({"uri": bench.uri("validation")});
    spec
}

#[test]
fn a_request_to_stop_after_the_last_step_loses_no_step() {
    let bench = Bench::new(4);
    // Seconds of validation, and as many of the final one.
    let mut spec = with_validation(&bench, "stopped", 300);
    spec["training"]["epochs"] = json!(1);
    spec["output"]["checkpoint"] = json!({"everySteps": 1000});
    let pod = bench.start("TrainingJob", "stopped", &spec, 1);
    wait_until("end of the epoch", || pod.log().contains("epoch done"));
    pod.signal(Signal::SIGTERM);
    let (code, message) = pod.end();
    assert_eq!((code, message.cause, message.step), (143, Cause::Preempted, Some(1)), "{message:?}");
    assert_eq!(bench.checkpoints("stopped"), ["step-000000001"]);
    assert!(!bench.path("stopped/model.json").exists(), "it was stopped before the model was written");
    let pod = bench.start("TrainingJob", "stopped", &spec, 2);
    let log = pod.log.clone();
    pod.succeed();
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("resumed from a checkpoint") && !log.contains("epoch done"), "{log}");
    assert_eq!(bench.metrics("stopped")["epochs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_request_to_stop_at_one_process_ends_the_validation_of_all() {
    let bench = Bench::new(4);
    // Minutes of validation, on whatever machine.
    let mut spec = with_validation(&bench, "stopped", 8000);
    spec["output"]["checkpoint"] = json!({"everySteps": 1});
    let pod = bench.start("TrainingJob", "stopped", &spec, 1);
    // The one step of the epoch is done.
    wait_until("checkpoint", || !bench.checkpoints("stopped").is_empty());
    let began = Instant::now();
    kill(pod.rank(1), Signal::SIGTERM).unwrap();
    let (code, message) = pod.end();
    assert_eq!((code, message.cause, message.step), (143, Cause::Preempted, Some(1)), "{message:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

/// Dropout and stochastic depth, after a resume, leave out what they would have left out without it.
#[test]
fn a_network_that_is_random_in_training_ends_with_the_same_bits_after_a_stop() {
    let bench = Bench::new(20);
    let spec = |output: &str| {
        let mut spec = bench.training(output);
        spec["model"] = json!({"architecture": "efficientnet_b0"});
        spec
    };
    bench.start("TrainingJob", "calm", &spec("calm"), 1).succeed();
    let pod = bench.start("TrainingJob", "stopped", &spec("stopped"), 1);
    wait_until("checkpoint", || !bench.checkpoints("stopped").is_empty());
    pod.kill();
    bench.start("TrainingJob", "stopped", &spec("stopped"), 2).succeed();
    assert!(bench.weights("calm") == bench.weights("stopped"), "the weights differ");
}

#[test]
fn a_checkpoint_that_was_damaged_is_passed_over() {
    let bench = Bench::new(20);
    bench.start("TrainingJob", "calm", &bench.training("calm"), 1).succeed();
    let pod = bench.start("TrainingJob", "damaged", &bench.training("damaged"), 1);
    wait_until("two checkpoints", || bench.checkpoints("damaged").len() == 2);
    pod.kill();
    let newest = bench.checkpoints("damaged").pop().unwrap();
    let state = bench.path("damaged").join("checkpoints").join(newest).join("state.safetensors");
    let mut bytes = fs::read(&state).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&state, bytes).unwrap();
    bench.start("TrainingJob", "damaged", &bench.training("damaged"), 2).succeed();
    assert!(bench.weights("calm") == bench.weights("damaged"), "the weights differ");
}

#[test]
fn a_scoring_that_is_killed_writes_each_row_once() {
    let bench = Bench::new(20);
    bench.start("TrainingJob", "model", &bench.training("model"), 1).succeed();
    fs::write(bench.path("images/left/000.png"), b"not an image").unwrap();
    bench.start("ScoringJob", "calm", &bench.scoring("model", "calm"), 1).succeed();
    for attempt in 1..=4 {
        let pod = bench.start("ScoringJob", "stormy", &bench.scoring("model", "stormy"), attempt);
        std::thread::sleep(Duration::from_millis(u64::from(attempt) * 120));
        pod.kill();
    }
    let result = bench.start("ScoringJob", "stormy", &bench.scoring("model", "stormy"), 9).succeed().result.unwrap();
    assert_eq!((result.rows_in, result.rows_out, result.rows_failed), (Some(40), Some(40), Some(1)));
    let stormy = rows(&bench.path("stormy/predictions.csv"));
    assert_eq!(stormy, rows(&bench.path("calm/predictions.csv")));
    assert_eq!(stormy.len(), 41, "a header and a row for each image");
}
