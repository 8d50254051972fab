//! The kind ModelEndpoint: a trained model that answers requests.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::infrastructure::Infrastructure;
use crate::model::ModelRef;
use crate::status::ModelEndpointStatus;
use crate::training::Precision;

/// Which model answers, with how many replicas, where, and how it is reached.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "ModelEndpoint",
    plural = "modelendpoints",
    shortname = "me",
    category = "trainyard",
    namespaced,
    status = "ModelEndpointStatus",
    derive = "PartialEq",
    doc = "Serves a trained model by the Open Inference Protocol, on a GPU if there is one.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Device", type_ = "string", json_path = ".status.placement.device"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Model", type_ = "string", json_path = ".status.model.digest", priority = 1),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".status.revision", priority = 1),
    printcolumn(name = "Runtime", type_ = "string", json_path = ".status.placement.runtime", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.followTrainingJob || has(self.model.trainingJob)")
        .message("followTrainingJob needs model.trainingJob: a folder has no newer model to follow").field_path(".followTrainingJob"),
    validation = Rule::new("self.infrastructure.nodes == 1")
        .message("an endpoint has one pod for each replica: leave infrastructure.nodes out and give replicas")
        .field_path(".infrastructure.nodes"),
)]
pub struct ModelEndpointSpec {
    /// The model that answers.
    pub model: ModelRef,
    /// True: when the TrainingJob has been deleted, created anew with another output.uri and has finished, its new model takes the
    /// place of the old one.
    #[serde(default)]
    pub follow_training_job: bool,
    /// Number of pods. With autoscaling it is the autoscaler that sets it.
    #[serde(default = "replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: u32,
    /// Sets replicas by the load, with a HorizontalPodAutoscaler. It takes an adapter that brings the pods' figures to the API
    /// custom.metrics.k8s.io. If absent: replicas stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Where it runs. For each replica there is one pod, so nodes stays 1.
    #[serde(default)]
    pub infrastructure: Infrastructure,
    /// Number format of convolutions and matrix products.
    #[serde(default)]
    pub precision: Precision,
    /// How requests are gathered into batches.
    #[serde(default)]
    pub batching: Batching,
    /// What a request may be.
    #[serde(default)]
    pub limits: RequestLimits,
    /// How the endpoint is reached.
    #[serde(default)]
    pub service: EndpointService,
    /// Who may ask. If absent: whoever reaches the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// Whether the endpoint explains its answers by heat maps; it needs memory for gradients.
    #[serde(default)]
    pub explain: bool,
    /// Seconds within which a new revision must be ready. Otherwise the roll-out is held and the old one goes on answering.
    #[serde(default = "progress_deadline_seconds")]
    #[schemars(range(min = 10, max = 86_400))]
    pub progress_deadline_seconds: u32,
    /// True: no pods. The service stays. With it false again, a place is looked for anew.
    #[serde(default)]
    pub suspend: bool,
}

/// Sets replicas by the load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("minReplicas is larger than maxReplicas").field_path(".minReplicas"))]
pub struct Autoscaling {
    /// Fewest pods.
    #[serde(default = "replicas")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: u32,
    /// Most pods.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: u32,
    /// What is measured. QueueMilliseconds: mean time that a request waits for its batch (trainyard_queue_milliseconds).
    /// RequestsPerSecond: of each pod (trainyard_requests_per_second).
    #[serde(default)]
    pub scale_metric: ScaleMetric,
    /// Value of the metric that is aimed at.
    #[serde(default = "scale_target")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub scale_target: u32,
}

/// What an autoscaler measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ScaleMetric {
    /// Mean milliseconds that a request waits for its batch.
    #[default]
    QueueMilliseconds,
    /// Requests per second of each pod.
    RequestsPerSecond,
}

/// How requests are gathered into batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Batching {
    /// Most images that go through the network at a time.
    #[schemars(range(min = 1, max = 4096))]
    pub max_batch_size: u32,
    /// Milliseconds that the first request of a batch waits for others. 0: it doesn't.
    #[schemars(range(min = 0, max = 60_000))]
    pub max_delay_milliseconds: u32,
    /// Images that may wait. What comes beyond is refused with 429.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_queue: u32,
}

impl Default for Batching {
    fn default() -> Self {
        Batching { max_batch_size: 16, max_delay_milliseconds: 2, max_queue: 256 }
    }
}

/// What a request may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestLimits {
    /// Largest body, in bytes. Larger ones are refused with 413.
    #[schemars(range(min = 1024, max = 1_073_741_824))]
    pub max_request_bytes: u32,
    /// Largest image, in pixels (width times height). Larger ones are refused with 413.
    #[schemars(range(min = 1024, max = 1_000_000_000))]
    pub max_pixels: u32,
    /// Seconds that a request may take. Longer ones are ended with 504.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: u32,
}

impl Default for RequestLimits {
    fn default() -> Self {
        RequestLimits { max_request_bytes: 33_554_432, max_pixels: 50_000_000, timeout_seconds: 30 }
    }
}

/// How the endpoint is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default = "EndpointService::default")]
#[x_kube(validation = Rule::new("self.port != self.grpcPort")
    .message("port and grpcPort are the same: each protocol needs its own").field_path(".grpcPort"))]
pub struct EndpointService {
    /// Kind of the Service.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// Port of REST, of the page for people, and of /metrics.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
    /// Port of gRPC.
    #[schemars(range(min = 1, max = 65_535))]
    pub grpc_port: u16,
    /// Annotations of the Service, for load balancers and DNS.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::annotations")]
    pub annotations: BTreeMap<String, String>,
}

impl Default for EndpointService {
    fn default() -> Self {
        EndpointService { kind: ServiceType::ClusterIp, port: 8080, grpc_port: 8081, annotations: BTreeMap::new() }
    }
}

/// Kind of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Reached from within the cluster.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// Reached by a port of each node.
    NodePort,
    /// Reached by a load balancer.
    LoadBalancer,
}

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// Secret in the same namespace that has the bearer token which requests must bear.
    pub bearer_token: SecretKey,
}

/// A key of a Secret. It is mounted as a file; the operator doesn't read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(schema_with = "crate::schema::resource_name")]
    pub name: String,
    /// Key in it.
    #[serde(default = "token")]
    #[schemars(length(min = 1, max = 253), pattern("^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

fn replicas() -> u32 {
    1
}

fn scale_target() -> u32 {
    50
}

fn progress_deadline_seconds() -> u32 {
    600
}

fn token() -> String {
    "token".into()
}
