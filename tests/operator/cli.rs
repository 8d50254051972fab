//! What a person types at a cluster, with the real program: status, suspend, resume, retrain, top, logs, the support bundle.

use std::process::{Command, Output, Stdio};

use crds::TrainingJob;
use crds::status::Phase;
use serde_json::{Value, json};
use tests::cluster::Cluster;
use tests::program::trainyard;

use crate::yard::{Yard, said, trained};

/// What a command came to.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Yard {
    /// Runs the program in this test's namespace, without a terminal.
    async fn typed(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(trainyard());
        command.args(arguments).args(["-n", self.namespace.name()]);
        command.env("KUBECONFIG", Cluster::shared().await.kubeconfig()).env("NO_COLOR", "1").stdin(Stdio::null());
        ran(command).await
    }

    /// The same; it must succeed.
    async fn answered(&self, arguments: &[&str]) -> String {
        let ran = self.typed(arguments).await;
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran.out
    }
}

/// Runs a command while the operator, which is on this runtime, works on.
async fn ran(mut command: Command) -> Ran {
    let output: Output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_follows_a_job_through_failure_and_restart_to_its_model() {
    let yard = Yard::new("cli-status", &["h200-580", "h200-580", "h200-580"]).await;
    let infrastructure = json!({"device": "Gpu", "nodes": 2, "gpusPerNode": 8});
    yard.train("flowers", json!({"infrastructure": infrastructure})).await;
    let pods = yard.namespace.pods();
    pods.running("flowers-t1-0").await;
    pods.running("flowers-t1-1").await;
    yard.phase("flowers", Phase::Running).await;

    let tree = yard.answered(&["status", "flowers"]).await;
    assert!(tree.starts_with("tj/flowers   Running   attempt 1, 0 restarts"), "{tree}");
    assert!(tree.contains("└─ attempt 1   under way"), "{tree}");
    assert!(tree.contains("├─ flowers-t1-0   Running   h200-580"), "{tree}");
    assert!(tree.contains("16 GPUs") && tree.contains("next      trainyard logs tj/flowers -f"), "{tree}");
    let table = yard.answered(&["status"]).await;
    assert!(table.lines().nth(1).is_some_and(|row| row.starts_with("tj/flowers   Running")), "{table}");

    let top = yard.answered(&["top", "-o", "json"]).await;
    let top: Value = serde_json::from_str(&top).expect("JSON");
    assert_eq!((&top[0]["gpusAsked"], &top[0]["gpusRunning"]), (&json!(16), &json!(16)), "{top}");
    assert_eq!(top[0]["nodes"].as_array().map(Vec::len), Some(2), "{top}");

    pods.finish("flowers-t1-1", 160, &said("NodeFault", "Xid 79: the GPU is gone")).await;
    yard.until("flowers", |status| status.restarts == 1).await;
    let tree = yard.answered(&["status", "tj/flowers"]).await;
    assert!(tree.contains("├─ attempt 1   NodeFault (160) on h200-580"), "{tree}");
    assert!(tree.contains("Xid 79: the GPU is gone"), "{tree}");
    assert!(tree.contains("left out") && tree.contains("└─ attempt 2"), "{tree}");
    let events = yard.answered(&["events", "flowers"]).await;
    assert!(events.contains("NodeExcluded") || events.contains("Restarting"), "{events}");
    let value: Value = serde_json::from_str(&yard.answered(&["status", "flowers", "-o", "json"]).await).expect("JSON");
    assert_eq!((&value["kind"], &value["status"]["restarts"]), (&json!("TrainingJob"), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_what_is_there_and_what_is_missing() {
    let yard = Yard::new("cli-doctor", &["h200-580"]).await;
    let told = yard.typed(&["doctor", "-o", "json", "--trainer", "/nowhere/trainer"]).await;
    let findings: Value = serde_json::from_str(&told.out).expect("JSON");
    let of = |check: &str| findings.as_array().and_then(|all| all.iter().find(|one| one["check"] == check)).cloned();
    for check in ["cluster", "definitions", "rights"] {
        assert_eq!(of(check).expect(check)["result"], "Good", "{check}: {told:?}");
    }
    assert!(
        of("GPU nodes").expect("nodes")["seen"].as_str().is_some_and(|seen| seen.contains("nvidia.com/gpu")),
        "{told:?}"
    );
    assert_eq!(of("trainer").expect("trainer")["result"], "Noted", "{told:?}");
    assert_eq!(told.code, 0, "{told:?}");

    let mut lost = Command::new(trainyard());
    lost.args(["doctor", "--kubeconfig", "/nowhere/kubeconfig"]).env("NO_COLOR", "1").stdin(Stdio::null());
    let lost = ran(lost).await;
    assert!(lost.out.contains("can't find a cluster") && lost.out.contains("trainyard run -f job.yaml"), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_suspended_resumed_waited_for_and_retrained() {
    let yard = Yard::new("cli-change", &["cpu"]).await;
    yard.train("flowers", json!({"training": {"epochs": 7}})).await;
    yard.namespace.pods().running("flowers-t1-0").await;
    yard.answered(&["wait", "flowers", "--for", "Running", "--timeout", "30s"]).await;

    let text = yard.answered(&["suspend", "flowers"]).await;
    assert!(text.starts_with("tj/flowers is suspended: "), "{text}");
    yard.answered(&["wait", "flowers", "--for", "Suspended", "--timeout", "60s"]).await;
    assert_eq!(yard.answered(&["suspend", "flowers"]).await, "tj/flowers is suspended already\n");
    let tree = yard.answered(&["status", "flowers"]).await;
    assert!(tree.contains("next      trainyard resume tj/flowers"), "{tree}");
    let late = yard.typed(&["wait", "flowers", "--timeout", "1s"]).await;
    assert!(late.code == 124 && late.err.starts_with("the time is over: tj/flowers Suspended"), "{late:?}");

    yard.answered(&["resume", "flowers"]).await;
    yard.namespace.pods().running("flowers-t2-0").await;
    let early = yard.typed(&["report", "flowers"]).await;
    assert!(early.code == 1 && early.err.contains("has no report yet"), "{early:?}");
    yard.namespace.pods().finish("flowers-t2-0", 0, &trained()).await;
    yard.answered(&["wait", "flowers", "--timeout", "60s"]).await;
    let ended = yard.typed(&["suspend", "flowers"]).await;
    assert!(ended.code == 1 && ended.err.contains("it can't be suspended any more"), "{ended:?}");
    assert!(yard.answered(&["status", "flowers"]).await.contains("result    file:///data/a   accuracy 0.9700"));
    let report = yard.answered(&["report", "flowers"]).await;
    assert!(report.starts_with("file:///data/a/report.html\n"), "{report}");
    let judged = yard.answered(&["evaluations", "tj/flowers"]).await;
    assert!(judged.starts_with("file:///data/a, by tj/flowers\n\nNo ScoringJob of the namespace"), "{judged}");

    let dry = yard
        .answered(&[
            "retrain",
            "flowers",
            "--gpus",
            "2",
            "--set",
            "spec.training.epochs=3",
            "--dry-run=client",
            "-o",
            "yaml",
        ])
        .await;
    assert!(
        dry.contains("trainingJob: flowers") && dry.contains("epochs: 3") && dry.contains("gpusPerNode: 2"),
        "{dry}"
    );
    let text = yard.answered(&["retrain", "tj/flowers", "--device", "cpu"]).await;
    assert!(text.starts_with("tj/flowers-2 is made: it trains on from the model of tj/flowers\n"), "{text}");
    let made: TrainingJob = yard.namespace.api().get("flowers-2").await.expect("the new job");
    assert_eq!(made.spec.retrain_from.and_then(|from| from.training_job).as_deref(), Some("flowers"));
    assert_eq!(
        (made.spec.output.uri.as_str(), made.spec.training.map(|one| one.epochs)),
        ("file:///data/a-flowers-2", Some(7))
    );
    let again = yard.typed(&["retrain", "flowers", "--name", "flowers-2"]).await;
    assert!(again.code == 1 && again.err.contains("give another --name"), "{again:?}");
    yard.namespace.pods().running("flowers-2-t1-0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_in_a_sentence_and_an_exit_code() {
    let yard = Yard::new("cli-faults", &["cpu"]).await;
    assert!(yard.answered(&["status"]).await.starts_with("There are no jobs and no endpoints in the namespace "));
    yard.train("flowers", json!({"runPolicy": {"suspend": true}})).await;
    yard.score("flowers", json!({})).await;
    let unclear = yard.typed(&["status", "flowers"]).await;
    assert!(unclear.code == 1 && unclear.err.contains("write tj/flowers or sj/flowers"), "{unclear:?}");
    let missing = yard.typed(&["status", "tj/flower"]).await;
    assert!(missing.code == 1 && missing.err.contains("Did you mean tj/flowers, sj/flowers?"), "{missing:?}");
    assert_eq!(yard.typed(&["status", "pod/flowers"]).await.code, 2);
    let logs = yard.typed(&["logs", "tj/flowers"]).await;
    assert!(logs.code == 0 && logs.err.contains("has no pods"), "{logs:?}");

    // Somebody who may do nothing, and a cluster that is not there.
    let user = yard.namespace.user("nobody", &[], &[]).await;
    let mut command = Command::new(trainyard());
    command.args(["status", "--kubeconfig"]).arg(user.kubeconfig()).args(["-n", yard.namespace.name()]);
    let refused = ran(command).await;
    let text = format!("you may not list trainingjobs in the namespace {}", yard.namespace.name());
    assert!(refused.code == 1 && refused.err.starts_with(&text), "{refused:?}");
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:9"}}], "users": [{"name": "a", "user": {}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    });
    let path = folder.path().join("config");
    std::fs::write(&path, nowhere.to_string()).expect("a file");
    let mut command = Command::new(trainyard());
    command.args(["status", "--kubeconfig"]).arg(&path);
    let unreachable = ran(command).await;
    assert!(unreachable.code == 3 && unreachable.err.starts_with("the cluster can't be reached"), "{unreachable:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_nodes_is_told_what_a_job_says_of_itself() {
    let yard = Yard::new("cli-viewer", &["cpu"]).await;
    yard.train("flowers", json!({})).await;
    yard.namespace.pods().running("flowers-t1-0").await;
    yard.phase("flowers", Phase::Running).await;
    let rule = json!({
        "apiGroups": ["trainyard.dev"], "resources": ["trainingjobs", "scoringjobs", "modelendpoints"], "verbs": ["get", "list"],
    });
    let user = yard.namespace.user("viewer", &[serde_json::from_value(rule).expect("a rule")], &[]).await;
    let typed = async |arguments: &[&str]| {
        let mut command = Command::new(trainyard());
        command.args(arguments).arg("--kubeconfig").arg(user.kubeconfig()).args(["-n", yard.namespace.name()]);
        ran(command).await
    };
    let why = typed(&["why", "flowers"]).await;
    assert!(why.code == 0 && why.out.starts_with("Running: "), "{why:?}");
    assert!(why.out.contains("is not told: you may not list nodes in the whole cluster. Ask"), "{why:?}");
    let nodes = typed(&["nodes"]).await;
    assert!(nodes.code == 1 && nodes.out.is_empty(), "{nodes:?}");
    assert!(nodes.err.starts_with("you may not list nodes in the whole cluster: ask"), "{nodes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_cannot_be_read_yet_are_told_and_do_not_stop_the_rest() {
    let yard = Yard::new("cli-logs", &["cpu"]).await;
    yard.train("flowers", json!({"runPolicy": {"backoffLimit": 0}})).await;
    yard.namespace.pods().running("flowers-t1-0").await;
    // The nodes are played: no kubelet answers.
    let logs = yard.typed(&["logs", "flowers"]).await;
    assert!(logs.code == 0 && logs.err.starts_with("[1-0] no log: "), "{logs:?}");
    yard.namespace.pods().finish("flowers-t1-0", 65, &said("BadData", "no class has images")).await;
    yard.phase("flowers", Phase::Failed).await;
    let followed = yard.typed(&["logs", "flowers", "-f"]).await;
    assert!(followed.code == 1 && followed.err.contains("tj/flowers Failed: "), "{followed:?}");
    let status = yard.typed(&["status", "flowers", "--watch"]).await;
    assert!(status.code == 1 && status.out.contains("mend the file that the message names"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_job_is_asked_of_an_endpoint() {
    let yard = Yard::new("cli-endpoint", &["cpu"]).await;
    yard.serve("flowers", json!({"replicas": 2})).await;
    let waited = yard.answered(&["wait", "flowers", "--timeout", "60s"]).await;
    assert!(waited.starts_with("me/flowers Ready: All 2 replicas answer"), "{waited}");
    let tree = yard.answered(&["status", "me/flowers"]).await;
    assert!(tree.starts_with("me/flowers   Ready   2 of 2 replicas, revision 1"), "{tree}");
    assert!(yard.answered(&["why", "me/flowers"]).await.contains("cpu"));
    // A pod that KWOK plays has no log, and is marked by its revision and the end of its name.
    let logs = yard.typed(&["logs", "me/flowers"]).await;
    assert!(logs.code == 0 && logs.err.lines().filter(|line| line.starts_with("[1-")).count() == 2, "{logs:?}");
    for (arguments, sentence) in [
        (["logs", "me/flowers", "--rank", "0"], "an endpoint's pods have no ranks"),
        (["wait", "me/flowers", "--for", "Succeeded"], "an endpoint gets Ready, Suspended or Failed"),
    ] {
        let refused = yard.typed(&arguments).await;
        assert!(refused.code == 2 && refused.err.contains(sentence), "{refused:?}");
    }
    yard.answered(&["suspend", "me/flowers"]).await;
    yard.answered(&["wait", "me/flowers", "--for", "Suspended", "--timeout", "60s"]).await;
    yard.answered(&["resume", "me/flowers"]).await;
    yard.answered(&["wait", "me/flowers", "--timeout", "60s"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_support_bundle_has_jobs_pods_and_nodes_and_nothing_secret() {
    let yard = Yard::new("cli-bundle", &["cpu"]).await;
    let variables = json!([{"name": "PASSWORD", "value": "hush-hush"}]);
    yard.train("flowers", json!({"infrastructure": {"pod": {"env": variables}}})).await;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "storage"}, "stringData": {"KEY": "hush-hush"},
    });
    yard.namespace.create::<k8s_openapi::api::core::v1::Secret>(secret).await;
    yard.namespace.pods().running("flowers-t1-0").await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bundle.tar.gz");
    yard.answered(&["support-bundle", "-o", &file.display().to_string()]).await;

    let bytes = std::fs::read(&file).expect("the bundle");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
    let mut files = std::collections::BTreeMap::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a path").to_string_lossy().into_owned();
        let name = name.split_once('/').expect("one folder").1.to_owned();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).expect("text");
        files.insert(name, text);
    }
    for (name, text) in [
        ("versions.txt", "kubernetes v"),
        ("trainingjobs.yaml", "name: flowers"),
        ("pods.yaml", "flowers-t1-0"),
        ("pods.yaml", "REDACTED"),
        ("nodes.yaml", "labels"),
        ("missing.txt", "operator/*.log: no pod with the label"),
    ] {
        assert!(files.get(name).is_some_and(|found| found.contains(text)), "{name}: {text}");
    }
    assert!(files.values().all(|text| !text.contains("hush-hush")), "{files:?}");
    assert!(!files.keys().any(|name| name.contains("secret")), "{:?}", files.keys());
}
