//! The cluster: can it be reached, does it know our kinds as this program does, may the caller use them, does an operator lead, are
//! there GPU nodes, and runtimes for them.

use std::collections::{BTreeMap, BTreeSet};

use crds::infrastructure::{Device, Infrastructure};
use crds::manifest::definition;
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::Value;

use super::super::access::{Access, Cluster};
use super::super::error::PluginError;
use super::super::job::all;
use super::super::operator::{Judgement, of_namespace};
use super::Finding;
use crate::cluster::LEASE;
use crate::observe::NodeFacts;
use crate::placement::{self, Request};

/// Our kinds as the API server names them, and what this program takes them for.
const KINDS: [(&str, fn() -> Value); 3] = [
    ("modelendpoints", definition::<ModelEndpoint>),
    ("scoringjobs", definition::<ScoringJob>),
    ("trainingjobs", definition::<TrainingJob>),
];
/// What a person does with jobs: verb, group and resource.
const RIGHTS: [(&str, &str, &str); 6] = [
    ("create", crds::contract::GROUP, "trainingjobs"),
    ("list", crds::contract::GROUP, "trainingjobs"),
    ("patch", crds::contract::GROUP, "trainingjobs"),
    ("delete", crds::contract::GROUP, "trainingjobs"),
    ("list", "", "pods"),
    ("get", "", "pods/log"),
];
/// Resources of GPUs, by the begin of their names.
const GPUS: [&str; 3] = ["nvidia.com/gpu", "nvidia.com/mig-", "amd.com/gpu"];

/// Looks at the cluster that is meant, if one is.
pub(super) fn look(access: &Access) -> Vec<Finding> {
    let found = access.find(async |cluster| {
        let version = match cluster.client.apiserver_version().await {
            Ok(version) => version.git_version,
            Err(error) => return Err(error.into()),
        };
        let mut findings =
            vec![Finding::good("cluster", format!("Kubernetes {version}, namespace {}", cluster.namespace))];
        findings.push(kinds(&cluster.client).await);
        findings.push(rights(&cluster).await);
        let judgement = of_namespace(&cluster.client, &cluster.namespace).await;
        findings.push(operator(&cluster, judgement.as_ref()).await);
        let nodes = all(&Api::<Node>::all(cluster.client.clone()), "").await;
        let nodes = nodes.map(|nodes| nodes.iter().map(NodeFacts::of).collect::<Vec<_>>());
        findings.push(match &nodes {
            Ok(nodes) => of_nodes("GPU nodes", nodes),
            Err(error) => Finding::skipped("GPU nodes", error.to_string()),
        });
        findings.push(runtimes(judgement.as_ref(), nodes.as_deref().unwrap_or_default()));
        Ok(findings)
    });
    match found {
        Ok(findings) => findings,
        Err(error @ PluginError::Kubeconfig(_)) => {
            let cure = "jobs run on this machine without a cluster: trainyard run -f job.yaml";
            vec![Finding::noted("cluster", error.to_string(), cure)]
        }
        Err(error) => vec![Finding::bad("cluster", error.to_string(), "the rest of the cluster was not looked at")],
    }
}

/// Whether the kinds are served, and defined as this program defines them.
async fn kinds(client: &Client) -> Finding {
    const WHAT: &str = "definitions";
    const CURE: &str = "trainyard crds | kubectl apply --server-side -f -";
    let version = format!("{}/{}", crds::contract::GROUP, crds::contract::VERSION);
    let served: BTreeSet<String> = match client.list_api_group_resources(&version).await {
        Ok(list) => list.resources.into_iter().map(|resource| resource.name).collect(),
        Err(kube::Error::Api(status)) if status.code == 404 => BTreeSet::new(),
        Err(error) => return Finding::bad(WHAT, PluginError::from(error).to_string(), ""),
    };
    let missing: Vec<&str> = KINDS.iter().map(|(name, _)| *name).filter(|name| !served.contains(*name)).collect();
    if !missing.is_empty() {
        return Finding::bad(WHAT, format!("the cluster does not serve {}", missing.join(", ")), CURE);
    }
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let mut other = Vec::new();
    for (resource, ours) in KINDS {
        let name = format!("{resource}.{}", crds::contract::GROUP);
        match api.get(&name).await {
            Ok(found) if same_fields(&found, &ours()) => {}
            Ok(_) => other.push(resource),
            Err(_) => return Finding::good(WHAT, format!("{version} is served; you may not look at its definitions")),
        }
    }
    match other.is_empty() {
        true => Finding::good(WHAT, format!("{version}, as this program has them")),
        false => {
            let seen =
                format!("{} has other fields than this program ({})", other.join(", "), env!("CARGO_PKG_VERSION"));
            Finding::noted(WHAT, seen, format!("{CURE}, if this program is the newer one"))
        }
    }
}

/// Whether the cluster's definition has the fields that ours has. The API server adds defaults of its own to what it is given.
fn same_fields(found: &CustomResourceDefinition, ours: &Value) -> bool {
    fields(ours) == fields(&serde_json::to_value(found).unwrap_or_default())
}

/// Paths of all properties of a definition's schema.
fn fields(definition: &Value) -> BTreeSet<String> {
    fn walk(schema: &Value, path: &str, paths: &mut BTreeSet<String>) {
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            walk(below, &path, paths);
            paths.insert(path);
        }
        if schema["items"].is_object() {
            walk(&schema["items"], path, paths);
        }
    }
    let mut paths = BTreeSet::new();
    walk(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec", &mut paths);
    paths
}

/// Whether the caller may do what jobs need.
async fn rights(cluster: &Cluster) -> Finding {
    const WHAT: &str = "rights";
    let api = Api::<SelfSubjectAccessReview>::all(cluster.client.clone());
    let mut missing = Vec::new();
    for (verb, group, resource) in RIGHTS {
        let (resource_name, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = ResourceAttributes {
            namespace: Some(cluster.namespace.clone()),
            verb: Some(verb.to_owned()),
            group: Some(group.to_owned()),
            resource: Some(resource_name.to_owned()),
            subresource: (!subresource.is_empty()).then(|| subresource.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        match api.create(&PostParams::default(), &review).await {
            Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => {}
            Ok(_) => missing.push(format!("{verb} {resource}")),
            Err(error) => return Finding::skipped(WHAT, PluginError::from(error).to_string()),
        }
    }
    match missing.is_empty() {
        true => Finding::good(WHAT, format!("you may train in the namespace {}", cluster.namespace)),
        false => Finding::bad(
            WHAT,
            format!("in the namespace {} you may not {}", cluster.namespace, missing.join(", ")),
            "ask whoever runs the cluster for a Role with these, or choose another namespace by -n",
        ),
    }
}

/// Whether an operator leads, by its lease, and whether it is as new as this program.
async fn operator(cluster: &Cluster, judgement: Option<&Judgement>) -> Finding {
    const WHAT: &str = "operator";
    let leases = match all(&Api::<Lease>::all(cluster.client.clone()), "").await {
        // One that works in this namespace alone has its lease here.
        Err(PluginError::Forbidden { .. }) => cluster.list::<Lease>(false, "").await,
        leases => leases,
    };
    let leases = match leases {
        Ok(leases) => leases,
        Err(error) => return Finding::skipped(WHAT, error.to_string()),
    };
    let now = Timestamp::now();
    let ours = leases.iter().filter(|lease| lease.metadata.name.as_deref() == Some(LEASE));
    let leading = ours.filter_map(|lease| leader(lease, now)).next();
    match leading {
        Some(leader) => led(WHAT, leader, judgement.and_then(|one| one.version.as_deref())),
        None => Finding::noted(
            WHAT,
            "no operator holds a lease here",
            "without one jobs stay Pending: trainyard operator. One that was started with --no-lease does not show",
        ),
    }
}

fn led(what: &'static str, leader: String, version: Option<&str>) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    match version {
        Some(version) if version != ours => Finding::noted(
            what,
            format!("{leader}; it is of version {version}, and this program of {ours}"),
            "take the program of the operator's version, or upgrade the chart",
        ),
        _ => Finding::good(what, leader),
    }
}

/// Which runtimes jobs get, and whether one of them runs on the GPUs that there are.
fn runtimes(judgement: Option<&Judgement>, nodes: &[NodeFacts]) -> Finding {
    const WHAT: &str = "runtimes";
    let Some(Judgement { catalogue, name, .. }) = judgement else {
        return Finding::skipped(WHAT, "no Deployment of an operator for this namespace can be read");
    };
    let names: Vec<&str> = catalogue.runtimes().iter().map(|runtime| runtime.name.as_str()).collect();
    let seen = format!("{} of the operator {name}", names.join(", "));
    let wish = Infrastructure { device: Device::Gpu, ..Infrastructure::default() };
    if !nodes.iter().any(|node| node.capacity.get(&wish.gpu.resource_name).is_some_and(|count| *count > 0)) {
        return Finding::good(WHAT, seen);
    }
    match placement::place(&Request::apart(&wish, &[], 1), Some(nodes), catalogue) {
        Ok(placed) => Finding::good(WHAT, format!("{seen}; a job on a GPU: {}", placed.reason)),
        Err(refusal) => Finding::noted(
            WHAT,
            format!("{seen}; a job on a GPU has no place: {}", refusal.text()),
            "name an image for these GPUs and drivers under runtimes in the chart's values; trainyard nodes shows them",
        ),
    }
}

/// Who holds a lease that is not over.
fn leader(lease: &Lease, now: Timestamp) -> Option<String> {
    let spec = lease.spec.as_ref()?;
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
    let renewed = spec.renew_time.as_ref()?.0;
    let seconds = i64::from(spec.lease_duration_seconds.unwrap_or_default());
    let is_fresh = now.duration_since(renewed) <= SignedDuration::from_secs(seconds);
    let namespace = lease.metadata.namespace.as_deref().unwrap_or_default();
    is_fresh.then(|| format!("{holder} leads, by the lease {namespace}/{LEASE}"))
}

/// Which GPUs the nodes have.
fn of_nodes(what: &'static str, nodes: &[NodeFacts]) -> Finding {
    let mut gpus: BTreeMap<&str, u64> = BTreeMap::new();
    let mut with = Vec::new();
    for node in nodes {
        let own =
            node.capacity.iter().filter(|(name, count)| **count > 0 && GPUS.iter().any(|gpu| name.starts_with(gpu)));
        let before = gpus.values().sum::<u64>();
        own.for_each(|(name, count)| *gpus.entry(name.as_str()).or_default() += count);
        if gpus.values().sum::<u64>() > before {
            with.push(node);
        }
    }
    if with.is_empty() {
        let seen = format!("none of {} nodes has a GPU", nodes.len());
        return Finding::noted(
            what,
            seen,
            "jobs with device Auto run on CPUs; for GPUs the nodes need NVIDIA's device plugin",
        );
    }
    let counts: Vec<String> = gpus.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let seen = format!("{} of {} nodes: {}", with.len(), nodes.len(), counts.join(", "));
    let faulty: Vec<&str> = with.iter().filter(|node| !node.faults.is_empty()).map(|node| node.name.as_str()).collect();
    let unlabelled = with.iter().filter(|node| node.driver().known().is_none()).count();
    match (faulty.is_empty(), unlabelled) {
        (false, _) => {
            let seen = format!("{seen}; at fault: {}", faulty.join(", "));
            Finding::noted(what, seen, "trainyard nodes says what is wrong with each")
        }
        (true, 0) => Finding::good(what, seen),
        (true, count) => Finding::noted(
            what,
            format!("{seen}; {count} don't tell their driver"),
            "install GPU Feature Discovery: without its labels jobs find out on the node that a driver is too old",
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Verdict;
    use super::*;
    use crate::placement::Catalogue;

    fn node(name: &str, gpus: u64, labels: &[(&str, &str)]) -> NodeFacts {
        let node = json!({"metadata": {"name": name, "labels": labels.iter().copied().collect::<BTreeMap<_, _>>()},
            "status": {"capacity": {"cpu": "8", "nvidia.com/gpu": gpus.to_string()}}});
        NodeFacts::of(&serde_json::from_value(node).unwrap())
    }

    #[test]
    fn gpus_are_counted_and_nodes_that_tell_little_are_noted() {
        let driver = [("nvidia.com/cuda.driver-version.major", "580"), ("nvidia.com/cuda.driver-version.minor", "65")];
        let told = |nodes: &[NodeFacts]| {
            let finding = of_nodes("GPU nodes", nodes);
            (finding.verdict, finding.seen)
        };
        let (a, b, cpu) = (node("a", 8, &driver), node("b", 4, &[]), node("c", 0, &[]));
        assert_eq!(told(std::slice::from_ref(&cpu)), (Verdict::Noted, "none of 1 nodes has a GPU".into()));
        assert_eq!(told(&[a.clone(), cpu.clone()]), (Verdict::Good, "1 of 2 nodes: 8 nvidia.com/gpu".into()));
        assert_eq!(
            told(&[a, b, cpu]),
            (Verdict::Noted, "2 of 3 nodes: 12 nvidia.com/gpu; 1 don't tell their driver".into())
        );
    }

    #[test]
    fn runtimes_are_told_with_what_they_are_good_for() {
        let driver = |major: &'static str| {
            [
                ("kubernetes.io/arch", "amd64"),
                ("kubernetes.io/os", "linux"),
                ("nvidia.com/cuda.driver-version.major", major),
                ("nvidia.com/cuda.driver-version.minor", "65"),
                ("nvidia.com/cuda.driver-version.revision", "06"),
                ("nvidia.com/gpu.compute.major", "9"),
                ("nvidia.com/gpu.compute.minor", "0"),
            ]
        };
        let judgement =
            Judgement { catalogue: Catalogue::built_in(), autoscaled: false, name: "a/b".into(), version: None };
        let told = |nodes: &[NodeFacts]| {
            let finding = runtimes(Some(&judgement), nodes);
            (finding.verdict, finding.seen)
        };
        assert_eq!(told(&[node("cpu", 0, &[])]), (Verdict::Good, "cuda-13.0, cpu of the operator a/b".into()));
        let (verdict, seen) = told(&[node("new", 8, &driver("580"))]);
        assert!(verdict == Verdict::Good && seen.contains("; a job on a GPU: "), "{seen}");
        let (verdict, seen) = told(&[node("old", 8, &driver("470"))]);
        assert!(
            verdict == Verdict::Noted && seen.contains("has no place: runtime cuda-13.0 needs driver 580"),
            "{seen}"
        );
        assert_eq!(runtimes(None, &[]).verdict, Verdict::Skipped);
    }

    #[test]
    fn an_operator_of_another_version_is_noted() {
        for (version, verdict) in
            [(None, Verdict::Good), (Some(env!("CARGO_PKG_VERSION")), Verdict::Good), (Some("0.0.1"), Verdict::Noted)]
        {
            assert_eq!(led("operator", "a leads".into(), version).verdict, verdict, "{version:?}");
        }
    }

    #[test]
    fn a_lease_that_is_over_leads_nobody() {
        let lease: Lease = serde_json::from_value(json!({
            "metadata": {"name": LEASE, "namespace": "trainyard"},
            "spec": {"holderIdentity": "pod-1", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"},
        }))
        .unwrap();
        let at = |text: &str| leader(&lease, text.parse().unwrap());
        assert_eq!(
            at("2026-01-01T00:00:10Z").as_deref(),
            Some("pod-1 leads, by the lease trainyard/trainyard-operator")
        );
        assert_eq!(at("2026-01-01T00:00:16Z"), None);
    }

    #[test]
    fn our_definitions_have_the_fields_that_they_have() {
        for (name, ours) in KINDS {
            let ours = ours();
            let found: CustomResourceDefinition = serde_json::from_value(ours.clone()).unwrap();
            assert!(same_fields(&found, &ours), "{name}");
            let mut older = ours.clone();
            let spec =
                &mut older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
            spec.as_object_mut().unwrap().remove("infrastructure").unwrap();
            assert!(!same_fields(&serde_json::from_value(older).unwrap(), &ours), "{name}");
        }
    }
}
