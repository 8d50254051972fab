//! Our definitions on a real API server: they are taken as they are, and judge manifests as the check without a server does.

use std::fs;
use std::path::Path;

use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use tests::cluster::{Cluster, Namespace};

use crate::common::with;
use crate::pairs::{Pair, pairs};

fn api(namespace: &Namespace<'_>, manifest: &Value) -> Api<DynamicObject> {
    let text = |field: &str| manifest[field].as_str().unwrap_or_default();
    // Kubernetes' first kinds are of no group.
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    let kind = GroupVersionKind::gvk(group, version, text("kind"));
    let plural = format!("{}s", text("kind").to_lowercase());
    let resource = ApiResource::from_gvk_with_plural(&kind, &plural);
    Api::namespaced_with(namespace.client(), namespace.name(), &resource)
}

fn object(manifest: &Value) -> DynamicObject {
    serde_json::from_value(manifest.clone()).unwrap()
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

#[tokio::test]
async fn the_api_server_takes_the_definitions() {
    for definition in Cluster::shared().await.definitions().await {
        let name = definition.metadata.name.unwrap();
        let conditions = definition.status.unwrap().conditions.unwrap_or_default();
        let bad: Vec<_> = conditions
            .iter()
            .filter(|condition| (condition.type_ == "NonStructuralSchema") == (condition.status == "True"))
            .collect();
        assert!(bad.is_empty(), "{name}: {bad:#?}");
    }
}

#[tokio::test]
async fn the_api_server_accepts_the_examples() {
    let cluster = Cluster::shared().await;
    cluster.definitions().await;
    let namespace = cluster.namespace("examples").await;
    let mut accepted = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let manifests: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(&path).unwrap()).unwrap();
        for manifest in manifests {
            let created = api(&namespace, &manifest).create(&dry_run(), &object(&manifest)).await;
            created.unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
            accepted += 1;
        }
    }
    assert!(accepted >= 7, "an example is missing: {accepted}");
}

/// What the API server says to a manifest, or to a change of one that is there.
async fn judge(namespace: &Namespace<'_>, name: &str, old: Option<&Value>, manifest: &Value) -> Result<(), String> {
    let named = |manifest: &Value| with(manifest.clone(), &json!({"metadata": {"name": name}}));
    let api = api(namespace, manifest);
    let said = match old {
        None => api.create(&dry_run(), &object(&named(manifest))).await,
        Some(_) => {
            let version = api.get(name).await.unwrap().metadata.resource_version;
            let changed = with(named(manifest), &json!({"metadata": {"resourceVersion": version}}));
            api.replace(name, &dry_run(), &object(&changed)).await
        }
    };
    said.map(drop).map_err(|fault| fault.to_string())
}

#[tokio::test]
async fn the_api_server_judges_as_the_check_without_it() {
    let cluster = Cluster::shared().await;
    cluster.definitions().await;
    let namespace = cluster.namespace("rules").await;
    let mut wrong = Vec::new();
    for (number, Pair { rule, old, accepted, refused }) in pairs().into_iter().enumerate() {
        let name = format!("pair-{number}");
        if let Some(old) = &old {
            let api = api(&namespace, old);
            let there = with(old.clone(), &json!({"metadata": {"name": name}}));
            api.create(&PostParams::default(), &object(&there))
                .await
                .unwrap_or_else(|fault| panic!("{there}: {fault}"));
            if let Some(status) = old.get("status") {
                let patch = Patch::Merge(json!({"status": status}));
                let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
                patched.unwrap_or_else(|fault| panic!("{there}: {fault}"));
            }
        }
        if let Err(fault) = judge(&namespace, &name, old.as_ref(), &accepted).await {
            wrong.push(format!("{rule:?} should accept {accepted}: {fault}"));
        }
        if refused == json!({}) {
            continue;
        }
        match judge(&namespace, &name, old.as_ref(), &refused).await {
            Err(fault) if fault.contains(&rule.2) => {}
            Err(fault) => wrong.push(format!("{rule:?} refuses with other words: {fault}")),
            Ok(()) => wrong.push(format!("{rule:?} should refuse {refused}")),
        }
    }
    assert!(wrong.is_empty(), "{} pairs are judged otherwise:\n{}", wrong.len(), wrong.join("\n"));
}
