//! Where a job runs: device, nodes, processes, GPUs, runtime or image. The same block in all three kinds, so that a model
//! is retrained elsewhere by changing this block alone.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pod::Pod;

/// Where it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default = "Infrastructure::default")]
#[x_kube(
    validation = crate::rules::free_launcher(),
    validation = Rule::new("has(self.image) || (!has(self.command) && !has(self.args))")
        .message("command and args are those of a custom image: give image too, or leave them out").field_path(".image"),
)]
pub struct Infrastructure {
    /// Gpu: GPUs, or nothing. Cpu: no GPU, even if there is one. Auto: GPUs if a node that the job may use can ever give
    /// them, otherwise CPUs; the status says which.
    pub device: Device,
    /// Number of pods. Several may share a node: pod.topologySpreadConstraints keeps them apart.
    #[schemars(range(min = 1, max = 4096))]
    pub nodes: u32,
    /// Processes of each pod on GPUs, one GPU each.
    #[schemars(range(min = 1, max = 64))]
    pub gpus_per_node: u32,
    /// Processes of each pod on CPUs.
    #[schemars(range(min = 1, max = 256))]
    pub processes_per_node: u32,
    /// Which GPUs.
    pub gpu: Gpu,
    /// Name of a runtime of the operator's catalogue, such as cuda-13.0. If absent: the newest that fits the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub runtime: Option<String>,
    /// Container image of a trainer of your own. It finds what torchrun reads (PET_NNODES, PET_NODE_RANK and so on), MASTER_ADDR
    /// and MASTER_PORT, and where each pod has one process also RANK, WORLD_SIZE and the like, for a program that is started
    /// without torchrun. An endpoint's has to answer GET /v2/health/live and /v2/health/ready at port 8080. If absent: Trainyard's
    /// trainer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::image")]
    pub image: Option<String>,
    /// Entry point of the custom image; the image's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(max = 4096)))]
    pub command: Option<Vec<String>>,
    /// Arguments of the custom image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(max = 4096)))]
    pub args: Option<Vec<String>>,
    /// What the pods get besides.
    pub pod: Pod,
}

impl Default for Infrastructure {
    fn default() -> Self {
        Infrastructure {
            device: Device::Auto,
            nodes: 1,
            gpus_per_node: 1,
            processes_per_node: 1,
            gpu: Gpu::default(),
            runtime: None,
            image: None,
            command: None,
            args: None,
            pod: Pod::default(),
        }
    }
}

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Device {
    /// GPUs where there can be any, otherwise CPUs.
    #[default]
    Auto,
    /// GPUs, or nothing.
    Gpu,
    /// CPUs, even where there is a GPU.
    Cpu,
}

/// Which GPUs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Gpu {
    /// Name of the extended resource; a MIG profile's or a shared GPU's where the cluster has such.
    #[schemars(
        length(min = 3, max = 253),
        pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub resource_name: String,
    /// Products that will do, as the node label nvidia.com/gpu.product names them, such as NVIDIA-H200. Empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::label_values")]
    pub products: Vec<String>,
    /// Least memory of each GPU, such as 40Gi.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub min_memory: Option<Quantity>,
}

impl Default for Gpu {
    fn default() -> Self {
        Gpu { resource_name: "nvidia.com/gpu".into(), products: Vec::new(), min_memory: None }
    }
}
