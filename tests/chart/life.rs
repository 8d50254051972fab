//! A release from its installation to its end, on a control plane of its own with nodes that are played: an upgrade with
//! running jobs and endpoints restarts no pod, and what is uninstalled leaves definitions and jobs behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crds::status::{EndpointPhase, Phase};
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use tests::chart::{self, Ran, helm};
use tests::cluster::{Cluster, Namespace, User};
use tests::program::{Operator, trainyard};

use crate::accepted::restricted;
use crate::alerts;

/// What runs while the release is upgraded, each with a pod.
const TRAININGS: usize = 50;
const SCORINGS: usize = 10;
const ENDPOINTS: usize = 5;

/// The chart as it was before, as a package: another version, with a column of another name in a definition.
fn previous(folder: &Path) -> String {
    let copy = folder.join("previous");
    Ran::of(Command::new("cp").arg("-rL").arg(chart::folder()).arg(&copy)).good();
    let replace = |file: &str, from: &str, to: &str| {
        let path = copy.join(file);
        let text = std::fs::read_to_string(&path).expect("a text");
        assert!(text.contains(from), "{file} has no {from}");
        std::fs::write(&path, text.replace(from, to)).expect("a change");
    };
    replace("Chart.yaml", env!("CARGO_PKG_VERSION"), "0.0.9");
    replace("files/crds/trainingjobs.yaml", "name: Progress\n", "name: Done\n");
    let (source, destination) = (copy.display().to_string(), folder.display().to_string());
    Ran::of(&mut helm(None, ["package", &source, "--destination", &destination])).good();
    folder.join("trainyard-0.0.9.tgz").display().to_string()
}

/// A release in a namespace.
struct Release<'a> {
    cluster: &'a Cluster,
    namespace: &'a Namespace<'a>,
}

impl Release<'_> {
    /// Runs Helm on the release; it must succeed.
    async fn helm(&self, arguments: &[&str]) -> String {
        let mut command = helm(Some(self.cluster.kubeconfig()), arguments);
        command.args(["--namespace", self.namespace.name()]);
        tokio::task::spawn_blocking(move || Ran::of(&mut command).good()).await.expect("Helm does its work")
    }

    /// Starts the program that the Deployment would start, with the rights of the chart's service account.
    async fn operator(&self) -> (Operator, User) {
        let user = self.namespace.user_of("trainyard").await;
        let deployment = self.namespace.api::<Deployment>().get("trainyard").await.expect("a Deployment");
        let catalogue = self.namespace.api::<ConfigMap>().get("trainyard-catalogue").await.expect("a catalogue");
        (Operator::of(&json!(deployment), &json!(catalogue), &user), user)
    }

    async fn jobs(&self) -> Vec<TrainingJob> {
        self.namespace.api().list(&ListParams::default()).await.expect("jobs").items
    }

    /// How many trainings have a phase.
    async fn count(&self, phase: Phase) -> usize {
        let jobs = self.jobs().await;
        jobs.iter().filter(|job| job.status.as_ref().is_some_and(|status| status.job.phase == phase)).count()
    }

    /// How many scorings run, and how many endpoints are ready.
    async fn others(&self) -> (usize, usize) {
        let scorings = self.namespace.api::<ScoringJob>().list(&ListParams::default()).await.expect("jobs");
        let endpoints = self.namespace.api::<ModelEndpoint>().list(&ListParams::default()).await.expect("endpoints");
        let runs = |job: &&ScoringJob| job.status.as_ref().is_some_and(|status| status.job.phase == Phase::Running);
        let is_ready =
            |one: &&ModelEndpoint| one.status.as_ref().is_some_and(|status| status.phase == EndpointPhase::Ready);
        (scorings.iter().filter(runs).count(), endpoints.iter().filter(is_ready).count())
    }

    /// The pods of jobs and endpoints, or of those of one kind: their UIDs by their names.
    async fn pods(&self, kind: Option<&str>) -> BTreeMap<String, Option<String>> {
        let labels = match kind {
            Some(kind) => format!("{}={kind}", crds::contract::labels::KIND),
            None => crds::contract::labels::KIND.to_owned(),
        };
        let pods = self.namespace.api::<Pod>().list(&ListParams::default().labels(&labels)).await.expect("pods");
        pods.iter().map(|pod| (pod.name_any(), pod.uid())).collect()
    }

    /// Names of the columns of `kubectl get trainingjobs`.
    async fn columns(&self) -> Vec<String> {
        let all = Api::<CustomResourceDefinition>::all(self.namespace.client());
        let definition = all.get("trainingjobs.trainyard.dev").await.expect("a definition");
        let columns = definition.spec.versions.into_iter().flat_map(|version| version.additional_printer_columns);
        columns.flatten().map(|column| column.name).collect()
    }
}

/// Waits until something holds that there is nothing to watch for.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("in two minutes it did not come about: {what}");
}

async fn start_jobs(release: &Release<'_>) {
    let namespace = release.namespace;
    let device = json!({"device": "Cpu"});
    for number in 0..TRAININGS {
        let output = json!({"uri": format!("file:///data/{number}")});
        // One has a GPU, whose time is counted.
        let infrastructure = if number == 0 { json!({"device": "Gpu"}) } else { device.clone() };
        let spec = json!({"data": {"uri": "file:///data/images"}, "infrastructure": infrastructure, "output": output});
        namespace.create::<TrainingJob>(json!({"metadata": {"name": format!("job-{number}")}, "spec": spec})).await;
    }
    let model = json!({"uri": "file:///data/model"});
    for number in 0..SCORINGS {
        let output = json!({"uri": format!("file:///data/rows-{number}")});
        let data = json!({"uri": "file:///data/images"});
        let spec = json!({"model": model, "data": data, "infrastructure": device, "output": output});
        namespace.create::<ScoringJob>(json!({"metadata": {"name": format!("rows-{number}")}, "spec": spec})).await;
    }
    for number in 0..ENDPOINTS {
        let spec = json!({"model": model, "infrastructure": device});
        namespace
            .create::<ModelEndpoint>(json!({"metadata": {"name": format!("served-{number}")}, "spec": spec}))
            .await;
    }
    until("all run", async || {
        release.count(Phase::Running).await == TRAININGS && release.others().await == (SCORINGS, ENDPOINTS)
    })
    .await;
}

/// Lets the trainings' pods end, as trainers that are done.
async fn finish_jobs(release: &Release<'_>) {
    let result = json!({"uri": "file:///data/a", "metricName": "accuracy", "metric": 0.9});
    let message = json!({"contractVersion": 1, "cause": "Completed", "message": "done", "result": result}).to_string();
    let pods = release.namespace.pods();
    for name in release.pods(Some("TrainingJob")).await.keys() {
        pods.finish(name, 0, &message).await;
    }
    until("all trainings are done", async || release.count(Phase::Succeeded).await == TRAININGS).await;
}

/// `helm test`, with its pod played; and what its containers do, done for real with the rights that they have.
async fn test(release: &Release<'_>, user: &User) {
    let pod = async {
        let pod = release.namespace.pods().running("trainyard-test").await;
        for container in pod.spec.map(|spec| spec.containers).unwrap_or_default() {
            let mut command = Command::new(trainyard());
            command.args(container.args.unwrap_or_default()).env("KUBECONFIG", user.kubeconfig());
            tokio::task::spawn_blocking(move || Ran::of(&mut command).good()).await.expect("it works");
        }
        release.namespace.pods().finish("trainyard-test", 0, "").await;
    };
    let (said, ()) = tokio::join!(release.helm(&["test", "trainyard", "--timeout", "60s"]), pod);
    assert!(said.contains("Succeeded"), "{said}");
}

/// Whether who has one of Kubernetes' own roles may do something with jobs.
async fn may(release: &Release<'_>, role: &str, verb: &str) -> bool {
    let role = Api::<ClusterRole>::all(release.namespace.client()).get(role).await.expect("a role");
    role.rules.into_iter().flatten().any(|rule| {
        rule.resources.is_some_and(|resources| resources.iter().any(|name| name == "trainingjobs"))
            && rule.verbs.iter().any(|own| own == verb)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_restarts_no_pod_and_what_is_uninstalled_leaves_jobs_behind() {
    let cluster = Cluster::start().await.unwrap_or_else(|fault| panic!("no control plane: {fault}"));
    let namespace = restricted(&cluster, "yard").await;
    namespace.nodes(&["cpu", "cpu", "h200-580"]).await;
    let release = Release { cluster: &cluster, namespace: &namespace };
    let folder = tempfile::tempdir().expect("a folder");
    let source = chart::folder().display().to_string();

    let said = release.helm(&["install", "trainyard", &previous(folder.path()), "--wait", "--timeout", "60s"]).await;
    assert!(said.contains("Trainyard 0.0.9 works in all namespaces"), "{said}");
    assert!(release.columns().await.contains(&"Done".to_owned()));
    let (before, _) = release.operator().await;
    start_jobs(&release).await;
    let pods = release.pods(None).await;
    assert_eq!(pods.len(), TRAININGS + SCORINGS + ENDPOINTS);

    // Everything that can change without another name: a catalogue, replicas, flags, definitions.
    let values = folder.path().join("values.yaml");
    let runtimes = json!([{"name": "cpu", "image": "registry.example.org/trainer:next"}]);
    let change = json!({"replicas": 2, "leaseSeconds": 10, "log": {"format": "Text"}, "runtimes": runtimes});
    std::fs::write(&values, change.to_string()).expect("values");
    let values = values.display().to_string();
    release.helm(&["upgrade", "trainyard", &source, "--wait", "--timeout", "60s", "--values", &values]).await;
    assert!(release.columns().await.contains(&"Progress".to_owned()), "the definitions are upgraded");
    let (mut after, user) = release.operator().await;
    before.stop();
    let figures = [
        ("TrainingJob", "Running", TRAININGS),
        ("ScoringJob", "Running", SCORINGS),
        ("ModelEndpoint", "Ready", ENDPOINTS),
    ];
    until("the new operator has seen all of them run", async || {
        let told = after.get("/metrics");
        figures.iter().all(|(kind, phase, count)| {
            told.contains(&format!("trainyard_jobs{{kind=\"{kind}\",phase=\"{phase}\"}} {count}\n"))
        })
    })
    .await;
    assert_eq!(after.get("/readyz"), "ok");
    assert_eq!(release.pods(None).await, pods, "no pod was restarted");
    let attempts = release.jobs().await.into_iter().filter_map(|job| job.status).map(|status| status.job.attempt);
    assert_eq!(attempts.max(), Some(1));

    test(&release, &user).await;
    for (role, verb, expected) in [
        ("view", "list", true),
        ("view", "create", false),
        ("edit", "create", true),
        ("admin", "deletecollection", true),
    ] {
        until(&format!("{role}: {verb}"), async || may(&release, role, verb).await == expected).await;
    }
    finish_jobs(&release).await;
    alerts::all_is_exported(&alerts::metrics(&after.get("/metrics")));
    after.stop();

    let said = release.helm(&["uninstall", "trainyard", "--wait", "--timeout", "60s"]).await;
    assert!(said.contains("trainingjobs.trainyard.dev"), "Helm says what it keeps: {said}");
    assert_eq!(release.count(Phase::Succeeded).await, TRAININGS);
    assert_eq!(namespace.api::<ServiceAccount>().get_opt("trainyard").await.expect("an answer"), None);
    // What was kept is no obstacle to the next release.
    release.helm(&["install", "trainyard", &source, "--wait", "--timeout", "60s"]).await;
    assert_eq!(release.jobs().await.len(), TRAININGS);
}
