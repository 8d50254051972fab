//! How the operator of a namespace was told to judge places: by its Deployment and its catalogue, as the chart installs them.

use std::path::Path;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec};
use kube::api::ListParams;
use kube::{Api, Client};

use super::bundle::OPERATOR;
use crate::placement::Catalogue;

/// The label by which the chart says the version.
const VERSION: &str = "app.kubernetes.io/version";

/// What an operator judges places by.
pub(super) struct Judgement {
    /// The runtimes that it has.
    pub(super) catalogue: Catalogue,
    /// Whether it counts on an autoscaler.
    pub(super) autoscaled: bool,
    /// Its Deployment, for people.
    pub(super) name: String,
    /// Its version, as the chart says it.
    pub(super) version: Option<String>,
}

/// What the operator that works in a namespace judges by; `None` where there is none of the chart's, or it may not be read.
pub(super) async fn of_namespace(client: &Client, namespace: &str) -> Option<Judgement> {
    let ours = ListParams::default().labels(OPERATOR);
    let operators = match Api::<Deployment>::all(client.clone()).list(&ours).await {
        Ok(operators) => operators,
        // Who may look into this namespace alone may see an operator that is in it.
        Err(_) => Api::<Deployment>::namespaced(client.clone(), namespace).list(&ours).await.ok()?,
    };
    // One for this namespace alone goes before one for all.
    let mut told: Vec<Told> = operators.iter().filter_map(Told::of).collect();
    told.retain(|told| told.works_in.as_deref().is_none_or(|works_in| works_in == namespace));
    let told = told.into_iter().max_by_key(|told| told.works_in.is_some())?;
    let (map, key) = told.catalogue?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &told.namespace);
    let text = maps.get(&map).await.ok()?.data?.remove(&key)?;
    let catalogue = Catalogue::parse(&text).ok()?;
    let name = format!("{}/{}", told.namespace, told.name);
    Some(Judgement { catalogue, autoscaled: told.autoscaled, name, version: told.version })
}

/// What an operator's Deployment tells it.
#[derive(Debug, PartialEq)]
struct Told {
    namespace: String,
    name: String,
    version: Option<String>,
    /// The only namespace that it works in, if it is one.
    works_in: Option<String>,
    autoscaled: bool,
    /// The ConfigMap with its catalogue, and the key.
    catalogue: Option<(String, String)>,
}

impl Told {
    fn of(deployment: &Deployment) -> Option<Told> {
        let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
        let container = pod.containers.iter().find(|container| container.name == "operator")?;
        let arguments = container.args.as_deref().unwrap_or_default();
        let value = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='));
        Some(Told {
            namespace: deployment.metadata.namespace.clone()?,
            name: deployment.metadata.name.clone()?,
            version: deployment.metadata.labels.as_ref().and_then(|labels| labels.get(VERSION).cloned()),
            works_in: value("--namespace").map(str::to_owned),
            autoscaled: arguments.iter().any(|argument| argument == "--autoscaled"),
            catalogue: value("--catalogue").and_then(|path| mounted(pod, container, Path::new(path))),
        })
    }
}

/// The ConfigMap that a file of a container comes from, and the key.
fn mounted(pod: &PodSpec, container: &Container, file: &Path) -> Option<(String, String)> {
    let (folder, key) = (file.parent()?, file.file_name()?.to_str()?);
    let mount = container.volume_mounts.iter().flatten().find(|mount| Path::new(&mount.mount_path) == folder)?;
    let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name)?;
    Some((volume.config_map.as_ref()?.name.clone(), key.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(arguments: &[&str], mount: &str) -> Option<Told> {
        let value: Value = json!({
            "metadata": {"namespace": "trainyard", "name": "trainyard", "labels": {VERSION: "0.1.0"}},
            "spec": {"selector": {}, "template": {"spec": {
                "containers": [{
                    "name": "operator", "args": arguments,
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "catalogue", "mountPath": mount}],
                }],
                "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "catalogue", "configMap": {"name": "c"}}],
            }}},
        });
        Told::of(&serde_json::from_value(value).expect("a Deployment"))
    }

    #[test]
    fn what_an_operator_is_told_stands_in_its_deployment() {
        let catalogue = || Some(("c".to_owned(), "catalogue.yaml".to_owned()));
        let file = "--catalogue=/etc/trainyard/catalogue.yaml";
        for (arguments, mount, works_in, autoscaled, found) in [
            (&["operator", file][..], "/etc/trainyard", None, false, catalogue()),
            (&["operator", "--namespace=a", "--autoscaled", file], "/etc/trainyard/", Some("a"), true, catalogue()),
            (&["operator", file], "/elsewhere", None, false, None),
            (&["operator"], "/etc/trainyard", None, false, None),
        ] {
            let told = told(arguments, mount).expect("an operator");
            assert_eq!(
                (told.works_in.as_deref(), told.autoscaled, told.catalogue, told.version.as_deref()),
                (works_in, autoscaled, found, Some("0.1.0")),
                "{arguments:?}"
            );
        }
    }
}
