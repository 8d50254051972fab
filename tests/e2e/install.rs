//! The release: from `helm install` to an operator that works, and to its end.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::json;
use tests::chart::{self, Ran, helm};
use tests::image::Product;

use crate::yard::{JOBS, RELEASE, Yard, image};

fn run(yard: &Yard, arguments: &[&str]) -> String {
    let mut command = helm(Some(yard.rig.cluster().kubeconfig()), arguments);
    Ran::of(command.args(["--namespace", RELEASE])).good()
}

pub(crate) fn installs(yard: &mut Yard) {
    let (operator, trainer) = (image(Product::Operator), image(Product::Trainer));
    let (repository, tag) = operator.rsplit_once(':').unwrap_or_default();
    // The image for CPUs stands in for the one with CUDA: what is looked at is how it ends where there is no driver.
    let values = json!({
        "image": {"repository": repository, "tag": tag},
        "runtimes": [
            {"name": "cpu", "image": trainer},
            {"name": "cuda-13.0", "image": trainer, "cuda": "13.0", "computeCapabilities": ["9.0"]},
        ],
        "backoffSeconds": 1,
        "pollSeconds": 1,
        "leaseSeconds": 15,
    });
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), values.to_string()).expect("values");
    let (source, file) = (chart::folder().display().to_string(), file.path().display().to_string());
    let began = Instant::now();
    run(yard, &["install", "trainyard", &source, "--values", &file, "--wait", "--timeout", "120s"]);
    yard.figure("helm install to an operator that is ready", began.elapsed());
}

pub(crate) fn works(yard: &mut Yard) {
    let said = run(yard, &["test", "trainyard", "--timeout", "120s", "--logs"]);
    assert!(said.contains("Succeeded") && said.contains("POD LOGS: trainyard-test"), "{said}");
}

/// All that there is in a namespace, of all kinds that can be listed, without what Kubernetes itself keeps there.
fn contents(yard: &Yard, namespace: &str) -> BTreeSet<String> {
    let kinds = yard.kubectl(["api-resources", "--namespaced", "--verbs=list", "-o", "name"]);
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let found = yard.kubectl(["get", "-n", namespace, "-o", "name", "--ignore-not-found", &kinds.join(",")]);
    let own = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
    found.lines().filter(|name| !own.contains(name)).map(str::to_owned).collect()
}

pub(crate) fn leaves_nothing(yard: &mut Yard) {
    yard.kubectl(["delete", "-n", JOBS, "trainingjobs,scoringjobs,modelendpoints", "--all", "--wait", "--timeout=60s"]);
    let kept: BTreeSet<String> = ["datasets", "models"].map(|name| format!("persistentvolumeclaim/{name}")).into();
    yard.until_true("of the jobs the claims are left alone", || contents(yard, JOBS) == kept);
    run(yard, &["uninstall", "trainyard", "--wait", "--timeout", "60s"]);
    yard.until_true("nothing is left of the release", || contents(yard, RELEASE).is_empty());
    let roles = yard.kubectl(["get", "clusterroles,clusterrolebindings,customresourcedefinitions", "-o", "name"]);
    let ours: Vec<_> = roles.lines().filter(|name| name.contains("trainyard")).collect();
    let kept = ["modelendpoints", "scoringjobs", "trainingjobs"]
        .map(|kind| format!("customresourcedefinition.apiextensions.k8s.io/{kind}.trainyard.dev"));
    assert_eq!(ours, kept, "the definitions are kept, and nothing else");
}
