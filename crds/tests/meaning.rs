//! What schema and rules let pass, and what is said about it: contradictions, fields without effect, what is not there yet.

mod common;

use common::{least, with};
use crds::check::read;
use crds::fault::Severity::{self, Error, Warning};
use crds::model::Architecture;
use serde_json::{Value, json};

/// Severity, path and first words of each fault of a manifest.
fn meaning(kind: &str, spec: &Value) -> Vec<(Severity, String, String)> {
    let manifest = with(least(kind), &json!({"spec": spec}));
    let resource = read(&manifest).unwrap_or_else(|faults| panic!("{manifest} is not accepted: {faults:?}"));
    resource.meaning().into_iter().map(|fault| (fault.severity, fault.path, fault.message)).collect()
}

#[track_caller]
fn assert_meaning(kind: &str, spec: &Value, expected: &[(Severity, &str, &str)]) {
    let found = meaning(kind, spec);
    let same = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(found, expected)| found.0 == expected.0 && found.1 == expected.1 && found.2.starts_with(expected.2));
    assert!(same, "{kind} {spec}\nfound {found:#?}\nexpected {expected:#?}");
}

#[test]
fn the_least_manifests_have_no_fault() {
    for kind in ["TrainingJob", "ScoringJob", "ModelEndpoint"] {
        assert_meaning(kind, &json!({}), &[]);
    }
}

#[test]
fn what_this_version_lacks_is_refused_by_name() {
    let cases = [
        (json!({"task": "ObjectDetection"}), "spec.task", "ObjectDetection is not supported"),
        (json!({"scheduling": {"queueName": "research"}}), "spec.scheduling.queueName", "queueName is not"),
        (json!({"scheduling": {"gang": "Volcano"}}), "spec.scheduling.gang", "Volcano is not"),
    ];
    for (spec, path, message) in cases {
        assert_meaning("TrainingJob", &spec, &[(Error, path, message)]);
    }
}

#[test]
fn every_store_is_read_from_and_written_to() {
    for at in ["s3://bucket/a", "gs://bucket/a", "az://container/a"] {
        assert_meaning("TrainingJob", &json!({"data": {"uri": at}, "retrainFrom": {"uri": at}}), &[]);
        for kind in ["TrainingJob", "ScoringJob"] {
            assert_meaning(kind, &json!({"output": {"uri": at}}), &[]);
        }
        assert_meaning("ModelEndpoint", &json!({"model": {"trainingJob": null, "uri": at}}), &[]);
    }
}

#[test]
fn a_replica_of_an_endpoint_is_one_process_with_one_gpu() {
    for field in ["gpusPerNode", "processesPerNode"] {
        let (spec, path) = (json!({"infrastructure": {field: 2}}), format!("spec.infrastructure.{field}"));
        assert_meaning("ModelEndpoint", &spec, &[(Error, &path, "a replica computes with one")]);
    }
}

#[test]
fn gpus_are_not_asked_for_among_the_resources_of_a_pod() {
    let resources = |resources: Value| json!({"infrastructure": {"pod": {"resources": resources}}});
    let path = |field: &str| format!("spec.infrastructure.pod.resources.{field}");
    for kind in ["TrainingJob", "ScoringJob", "ModelEndpoint"] {
        for name in ["nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "nvidia.com/gpu.shared"] {
            let said = format!("has {name}:");
            let both = resources(json!({"limits": {name: 8}, "requests": {name: 8}}));
            assert_meaning(kind, &both, &[(Error, &path("limits"), &said), (Error, &path("requests"), &said)]);
        }
        let others = json!({"limits": {"memory": "8Gi", "nvidia.com/hostdev": 1}, "requests": {"cpu": 4}});
        assert_meaning(kind, &resources(others), &[]);
        let own = json!({"infrastructure": {
            "gpu": {"resourceName": "example.com/gpu"}, "pod": {"resources": {"limits": {"example.com/gpu": 1}}},
        }});
        assert_meaning(kind, &own, &[(Error, &path("limits"), "has example.com/gpu:")]);
    }
}

#[test]
fn every_architecture_is_supported() {
    for architecture in Architecture::ALL {
        assert_meaning("TrainingJob", &json!({"model": {"architecture": architecture}}), &[]);
    }
}

#[test]
fn everything_about_the_training_is_supported() {
    let training = |patch: Value| json!({"training": patch});
    let augmentation = |patch: Value| json!({"data": {"augmentation": patch}});
    let names = ["Sgd", "Adam", "AdamW", "RmsProp", "Adamax", "Adagrad", "Adadelta"];
    let mut specs: Vec<Value> = names.iter().map(|name| training(json!({"optimizer": {"name": name}}))).collect();
    specs.extend([
        training(json!({"schedule": {"name": "Plateau"}, "earlyStopping": {}, "emaDecay": 0.99})),
        training(json!({"precision": "Float16", "classWeights": {"mode": "Balanced"}})),
        training(json!({"classWeights": {"mode": "Given", "weights": {"rose": 2.5}}})),
        training(json!({"syncBatchNorm": true, "gradientCompression": "BFloat16", "collectiveTimeoutSeconds": 60})),
        training(json!({"gradientCompression": "Float16"})),
        augmentation(json!({"policy": "RandAugment", "mixup": 0.2, "cutmix": 1})),
        augmentation(json!({"policy": "TrivialAugment"})),
    ]);
    for spec in specs {
        assert_meaning("TrainingJob", &spec, &[]);
    }
    assert_meaning("ScoringJob", &json!({"precision": "Float16"}), &[]);
    let idle = training(json!({"classWeights": {"weights": {"rose": 2.5}}}));
    assert_meaning("TrainingJob", &idle, &[(Warning, "spec.training.classWeights.weights", "has no effect, because")]);
}

#[test]
fn a_custom_image_reads_the_spec_by_its_own_lights() {
    let infrastructure = json!({"image": "registry.example/own:1"});
    let spec = json!({"data": {"format": "Parquet"}, "infrastructure": infrastructure});
    assert_meaning("TrainingJob", &spec, &[]);
}

#[test]
fn what_only_an_endpoint_s_own_image_can_carry_out_is_told() {
    let token = json!({"bearerToken": {"name": "token", "key": "token"}});
    for (field, value) in [
        ("authentication", token),
        ("limits", json!({"timeoutSeconds": 60})),
        ("batching", json!({"maxBatchSize": 4})),
        ("explain", json!(true)),
        ("precision", json!("BFloat16")),
    ] {
        let own = json!({field: value, "infrastructure": {"image": "registry.example/own:1"}});
        let path = format!("spec.{field}");
        assert_meaning("ModelEndpoint", &own, &[(Warning, &path, "is left to the image")]);
        assert_meaning("ModelEndpoint", &json!({field: value}), &[]);
    }
    assert_meaning("ModelEndpoint", &json!({"infrastructure": {"image": "registry.example/own:1"}}), &[]);
}

#[test]
fn contradictions_are_errors() {
    let cases = [
        (json!({"output": {"uri": "pvc://datasets/digits/model"}}), "spec.output.uri", "is within data.uri"),
        (json!({"data": {"validation": {"uri": "pvc://datasets/digits"}}}), "spec.data.validation.uri", "is data.uri"),
        (
            json!({"model": {"fineTuning": {"strategy": "HeadOnly"}}}),
            "spec.model.fineTuning.strategy",
            "HeadOnly leaves layers untrained",
        ),
        (
            json!({"model": {
                "architecture": "resnet18",
                "initialWeights": {"uri": "pvc://weights/a.pth"},
                "fineTuning": {"strategy": "LastStages", "stages": 6},
            }}),
            "spec.model.fineTuning.stages",
            "resnet18 has 5 stages, not 6",
        ),
        (
            json!({"model": {"architecture": "vit_b_16"}, "data": {"imageSize": 200}}),
            "spec.data.imageSize",
            "vit_b_16 takes images of a multiple of 16 pixels, not of 200",
        ),
        (
            json!({"model": {"architecture": "convnext_tiny"}, "data": {"imageSize": 28}}),
            "spec.data.imageSize",
            "convnext_tiny takes images of 32 pixels or more, not of 28",
        ),
        (
            json!({"training": {"schedule": {"minLearningRate": 0.5}}}),
            "spec.training.schedule.minLearningRate",
            "is above the learning rate of 0.02",
        ),
        (
            json!({"infrastructure": {"pod": {"volumeMounts": [{"name": "a", "mountPath": "/a"}]}}}),
            "spec.infrastructure.pod.volumeMounts",
            "mounts the volume \"a\"",
        ),
        (
            json!({"infrastructure": {"pod": {"resources": {"claims": [{"name": "gpus"}]}}}}),
            "spec.infrastructure.pod.resources.claims",
            "uses the claim \"gpus\"",
        ),
        // Within what the schema leaves open.
        (
            json!({"infrastructure": {"pod": {"podSecurityContext": {"fsGroup": "1000"}}}}),
            "spec.infrastructure.pod.podSecurityContext",
            "invalid type: string \"1000\", expected i64",
        ),
        (
            json!({"infrastructure": {"pod": {"securityContext": {"capabilities": {"add": "IPC_LOCK"}}}}}),
            "spec.infrastructure.pod.securityContext",
            "invalid type: string \"IPC_LOCK\"",
        ),
        (
            json!({"infrastructure": {"pod": {"affinity": {"nodeAffinity": []}}}}),
            "spec.infrastructure.pod.affinity",
            "invalid type: sequence",
        ),
        (
            json!({"infrastructure": {"pod": {
                "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": "/data"}],
                "volumeMounts": [{"name": "b", "mountPath": "/b"}],
            }}}),
            "spec.infrastructure.pod.volumes[1]",
            "invalid type: string \"/data\"",
        ),
        (
            json!({"infrastructure": {"pod": {"env": [{"name": "A", "valueFrom": {"fieldRef": "spec.nodeName"}}]}}}),
            "spec.infrastructure.pod.env[0]",
            "invalid type: string \"spec.nodeName\"",
        ),
    ];
    for (spec, path, message) in cases {
        assert_meaning("TrainingJob", &spec, &[(Error, path, message)]);
    }
    // A name that begins as the data's does is no folder within it.
    assert_meaning("TrainingJob", &json!({"output": {"uri": "pvc://datasets/digits-model"}}), &[]);
}

#[test]
fn fields_without_effect_are_warnings() {
    let optimizer = |patch: Value| json!({"training": {"optimizer": patch}});
    let schedule = |patch: Value| json!({"training": {"schedule": patch}});
    let infrastructure = |patch: Value| json!({"infrastructure": patch});
    let cases = [
        (optimizer(json!({"beta1": 0.9})), "spec.training.optimizer.beta1"),
        (optimizer(json!({"name": "AdamW", "momentum": 0.9})), "spec.training.optimizer.momentum"),
        (schedule(json!({"gamma": 0.5})), "spec.training.schedule.gamma"),
        (schedule(json!({"name": "Step", "stepEpochs": 30})), "spec.training.schedule.stepEpochs"),
        (schedule(json!({"name": "MultiStep", "milestones": [10, 40]})), "spec.training.schedule.milestones"),
        (json!({"model": {"fineTuning": {"stages": 2}}}), "spec.model.fineTuning.stages"),
        (json!({"data": {"format": "ImageFolder", "labelColumn": "class"}}), "spec.data.labelColumn"),
        (infrastructure(json!({"device": "Cpu", "gpusPerNode": 2})), "spec.infrastructure.gpusPerNode"),
        (infrastructure(json!({"device": "Gpu", "processesPerNode": 2})), "spec.infrastructure.processesPerNode"),
        (
            json!({"model": {"architecture": "convnext_tiny"}, "training": {"syncBatchNorm": true}}),
            "spec.training.syncBatchNorm",
        ),
        (json!({"training": {"collectiveTimeoutSeconds": 1800}}), "spec.training.collectiveTimeoutSeconds"),
        (
            json!({"output": {"checkpoint": {"everySeconds": 60}}, "runPolicy": {"activeDeadlineSeconds": 60}}),
            "spec.output.checkpoint.everySeconds",
        ),
    ];
    for (spec, path) in cases {
        assert_meaning("TrainingJob", &spec, &[(Warning, path, "has no effect, because")]);
    }
    let column = json!({"data": {"labelColumn": "class"}});
    assert_meaning("ScoringJob", &column, &[(Warning, "spec.data.labelColumn", "has no effect, because")]);
    let queue = json!({"batching": {"maxQueue": 4}});
    assert_meaning("ModelEndpoint", &queue, &[(Warning, "spec.batching.maxQueue", "is smaller than")]);
}

#[test]
fn a_validation_that_there_is_not_cannot_be_watched() {
    let found = meaning(
        "TrainingJob",
        &json!({"data": {"validation": {"fraction": 0}}, "training": {"earlyStopping": {}, "schedule": {"name": "Plateau"}}}),
    );
    let watched: Vec<_> = found.iter().filter(|fault| fault.2.contains("watches")).map(|fault| &fault.1[..]).collect();
    assert_eq!(watched, ["spec.training.earlyStopping", "spec.training.schedule.name"]);
}
