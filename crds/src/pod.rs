//! What the pods of a job get besides what Trainyard gives them. The types are Kubernetes' own; the schemas are short
//! ones. What they leave open ([`Open`]) is checked before a pod is made, and by the API server when it is.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, EnvFromSource, EnvVar, LocalObjectReference, PodResourceClaim, PodSecurityContext,
    ResourceRequirements, SecurityContext, Toleration, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::open::Open;

/// What the pods get besides. Fields of a container (env, resources, volumeMounts) are those of the trainer's container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default = "Pod::default")]
#[x_kube(
    validation = Rule::new("!has(self.labels) || self.labels.all(key, !key.startsWith('trainyard.dev/'))")
        .message("labels that start with trainyard.dev/ are set by Trainyard: leave them out").field_path(".labels"),
    validation = crate::rules::free_variables(),
)]
pub struct Pod {
    /// Labels of the pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::labels")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::annotations")]
    pub annotations: BTreeMap<String, String>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::tolerations")]
    pub tolerations: Vec<Toleration>,
    /// Affinity, as in a pod. What Trainyard needs of a node is added to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::open_object")]
    pub affinity: Option<Open<Affinity>>,
    /// How the pods are spread over zones, racks or nodes, as in a pod. Those of a job have the label trainyard.dev/job.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::topology_spread_constraints")]
    pub topology_spread_constraints: Vec<Open<TopologySpreadConstraint>>,
    /// Containers that run before the trainer's, as in a pod: to fetch data, say. One with restartPolicy Always runs beside it. One
    /// without a securityContext gets one that passes Pod Security restricted if the pod runs as a user other than root.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::init_containers")]
    pub init_containers: Vec<Open<Container>>,
    /// Environment variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::env")]
    pub env: Vec<Open<EnvVar>>,
    /// Secrets and config maps whose keys become environment variables: the way for credentials of a storage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::env_from")]
    pub env_from: Vec<EnvFromSource>,
    /// Volumes, as in a pod. Those of pvc:// URIs are added by themselves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::volumes")]
    pub volumes: Vec<Open<Volume>>,
    /// Where the volumes are mounted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::volume_mounts")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Requests and limits of the container. GPUs are added by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::resources")]
    pub resources: Option<ResourceRequirements>,
    /// Devices claimed by dynamic resource allocation, as in a pod. The container uses those that resources.claims names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::resource_claims")]
    pub resource_claims: Vec<PodResourceClaim>,
    /// Size of /dev/shm, such as 8Gi: a bound, nothing is set aside. What is written there counts against the memory limit. If
    /// absent, a custom image gets as much as its memory limit allows. Trainyard's trainer gets 512Mi for each GPU where a pod has
    /// several, for NCCL, and the container's own 64 MiB otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub shared_memory: Option<Quantity>,
    /// Seconds that a pod has to commit a checkpoint after it was told to end. A pod of an endpoint, which answers what it took in,
    /// has limits.timeoutSeconds and 15 more at least.
    #[schemars(range(min = 1, max = 86_400))]
    pub termination_grace_period_seconds: u32,
    /// Service account of the pods. No token of it is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::resource_name")]
    pub service_account_name: Option<String>,
    /// Priority class of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::resource_name")]
    pub priority_class_name: Option<String>,
    /// When the image is pulled; by Kubernetes' own rule if absent: Always for the tag latest, else IfNotPresent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Secrets for pulling the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::references")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Scheduler of the pods; the cluster's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::resource_name")]
    pub scheduler_name: Option<String>,
    /// Runtime class of the pods, such as nvidia.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::resource_name")]
    pub runtime_class_name: Option<String>,
    /// Security context of the container, over Trainyard's own, which passes Pod Security restricted; for a custom image give
    /// podSecurityContext.runAsNonRoot too. All capabilities are dropped but those that are added: RDMA needs IPC_LOCK here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::open_object")]
    pub security_context: Option<Open<SecurityContext>>,
    /// Security context of the pod, over Trainyard's own: fsGroup, supplementalGroups and such. A custom image runs as the user that
    /// it names: to pass Pod Security restricted set runAsNonRoot to true for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::open_object")]
    pub pod_security_context: Option<Open<PodSecurityContext>>,
    /// Whether the pods use their node's network, as some RDMA fabrics need.
    pub host_network: bool,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// At each start of a container, if the registry has another one.
    Always,
    /// Where the node has none of this name.
    IfNotPresent,
    /// Never: it must be on the node.
    Never,
}

impl PullPolicy {
    /// As a pod names it.
    pub fn name(self) -> &'static str {
        match self {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        }
    }
}

impl Pod {
    /// The fields that do not fit their type, as kubectl writes them from here on, and why.
    pub fn misfits(&self) -> Vec<(String, &str)> {
        let alone = [
            ("affinity", self.affinity.as_ref().and_then(Open::misfit)),
            ("securityContext", self.security_context.as_ref().and_then(Open::misfit)),
            ("podSecurityContext", self.pod_security_context.as_ref().and_then(Open::misfit)),
        ];
        let mut misfits: Vec<(String, &str)> =
            alone.into_iter().filter_map(|(field, why)| Some((field.to_owned(), why?))).collect();
        misfits.extend(misfits_of("topologySpreadConstraints", &self.topology_spread_constraints));
        misfits.extend(misfits_of("initContainers", &self.init_containers));
        misfits.extend(misfits_of("env", &self.env));
        misfits.extend(misfits_of("volumes", &self.volumes));
        misfits
    }
}

fn misfits_of<'a, T>(field: &str, list: &'a [Open<T>]) -> impl Iterator<Item = (String, &'a str)> {
    list.iter().enumerate().filter_map(move |(number, one)| Some((format!("{field}[{number}]"), one.misfit()?)))
}

impl Default for Pod {
    fn default() -> Self {
        Pod {
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            topology_spread_constraints: Vec::new(),
            init_containers: Vec::new(),
            env: Vec::new(),
            env_from: Vec::new(),
            volumes: Vec::new(),
            volume_mounts: Vec::new(),
            resources: None,
            resource_claims: Vec::new(),
            shared_memory: None,
            termination_grace_period_seconds: 60,
            service_account_name: None,
            priority_class_name: None,
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            scheduler_name: None,
            runtime_class_name: None,
            security_context: None,
            pod_security_context: None,
            host_network: false,
        }
    }
}
