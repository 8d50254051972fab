//! Nodes and jobs in a few words: `h100("a", 8).with_driver("535.104.05")`, `gpus(2).on(3).runtime("cuda-12.4")`.

use crds::infrastructure::{Device, Infrastructure};
use k8s_openapi::api::core::v1::{Affinity, NodeSelectorTerm, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::json;

use crate::observe::NodeFacts;
use crate::observe::node::labels;
use crate::placement::{Catalogue, Placed, Refusal, Request, place};

/// A node without GPUs.
pub(super) fn cpus(name: &str) -> NodeFacts {
    let node = NodeFacts { name: name.to_owned(), ready: true, ..NodeFacts::default() };
    node.labelled("kubernetes.io/os", "linux").labelled("kubernetes.io/arch", "amd64")
}

/// A node with GPUs that says nothing about them.
pub(super) fn bare(name: &str, gpus: u64) -> NodeFacts {
    cpus(name).offers(labels::GPU, gpus)
}

/// A node as GPU Feature Discovery describes it, with driver 580.95.05.
pub(super) fn node(name: &str, gpus: u64, product: &str, mib: u32, capability: &str) -> NodeFacts {
    let (major, minor) = capability.split_once('.').expect("a capability");
    let described = bare(name, gpus).labelled("nvidia.com/gpu.product", product).labelled("nvidia.com/gpu.memory", mib);
    let described = described.labelled("nvidia.com/gpu.count", gpus).labelled("nvidia.com/gpu.replicas", 1);
    let described = described.labelled("nvidia.com/gpu.sharing-strategy", "none");
    described
        .labelled("nvidia.com/gpu.compute.major", major)
        .labelled("nvidia.com/gpu.compute.minor", minor)
        .with_driver("580.95.05")
}

pub(super) fn v100(name: &str, gpus: u64) -> NodeFacts {
    node(name, gpus, "Tesla-V100-SXM2-16GB", 16_384, "7.0")
}

pub(super) fn a100(name: &str, gpus: u64) -> NodeFacts {
    node(name, gpus, "NVIDIA-A100-SXM4-40GB", 40_960, "8.0")
}

pub(super) fn h100(name: &str, gpus: u64) -> NodeFacts {
    node(name, gpus, "NVIDIA-H100-80GB-HBM3", 81_559, "9.0")
}

pub(super) fn b200(name: &str, gpus: u64) -> NodeFacts {
    node(name, gpus, "NVIDIA-B200", 183_359, "10.0")
}

impl NodeFacts {
    #[expect(clippy::needless_pass_by_value, reason = "a table of a test reads better without references")]
    pub(super) fn labelled(mut self, name: &str, value: impl ToString) -> NodeFacts {
        self.labels.insert(name.to_owned(), value.to_string());
        self
    }

    pub(super) fn without(mut self, name: &str) -> NodeFacts {
        self.labels.remove(name);
        self
    }

    /// One of arm's.
    pub(super) fn arm(self) -> NodeFacts {
        self.labelled("kubernetes.io/arch", "arm64")
    }

    /// All of a resource can be given to pods.
    pub(super) fn offers(mut self, resource: &str, amount: u64) -> NodeFacts {
        self.capacity.insert(resource.to_owned(), amount);
        self.allocatable.insert(resource.to_owned(), amount);
        self
    }

    /// Both the new and the old labels of a driver, as GFD 0.15 and later write them.
    pub(super) fn with_driver(self, version: &str) -> NodeFacts {
        let mut parts = version.split('.');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        let (major, minor, revision) = (part(), part(), part());
        self.with_old_driver(version)
            .labelled("nvidia.com/cuda.driver-version.major", major)
            .labelled("nvidia.com/cuda.driver-version.minor", minor)
            .labelled("nvidia.com/cuda.driver-version.revision", revision)
    }

    /// Only the old labels of a driver.
    pub(super) fn with_old_driver(mut self, version: &str) -> NodeFacts {
        self.labels.retain(|name, _| !name.starts_with("nvidia.com/cuda.driver-version"));
        let mut parts = version.split('.');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        let (major, minor, revision) = (part(), part(), part());
        self.labelled("nvidia.com/cuda.driver.major", major)
            .labelled("nvidia.com/cuda.driver.minor", minor)
            .labelled("nvidia.com/cuda.driver.rev", revision)
    }

    /// Each GPU given to so many pods.
    pub(super) fn shared(self, by: &str, replicas: u64) -> NodeFacts {
        let gpus = self.devices(labels::GPU);
        self.offers(labels::GPU, gpus * replicas)
            .labelled("nvidia.com/gpu.replicas", replicas)
            .labelled("nvidia.com/gpu.sharing-strategy", by)
    }

    /// GPUs cut into slices that are offered as resources of their own.
    pub(super) fn mig_mixed(self, profile: &str, slices: u64, mib: u32) -> NodeFacts {
        let resource = format!("nvidia.com/mig-{profile}");
        let product = format!("{}-MIG-{profile}", self.labels["nvidia.com/gpu.product"]);
        self.offers(labels::GPU, 0)
            .offers(&resource, slices)
            .labelled("nvidia.com/mig.strategy", "mixed")
            .labelled("nvidia.com/gpu.replicas", 0)
            .labelled(&format!("{resource}.product"), product)
            .labelled(&format!("{resource}.memory"), mib)
            .labelled(&format!("{resource}.replicas"), 1)
    }

    /// GPUs cut into slices that are offered as GPUs.
    pub(super) fn mig_single(self, profile: &str, slices: u64, mib: u32) -> NodeFacts {
        let product = format!("{}-MIG-{profile}", self.labels["nvidia.com/gpu.product"]);
        self.offers(labels::GPU, slices)
            .labelled("nvidia.com/mig.strategy", "single")
            .labelled("nvidia.com/gpu.product", product)
            .labelled("nvidia.com/gpu.memory", mib)
    }

    pub(super) fn taint(mut self, key: &str, value: &str) -> NodeFacts {
        let value = Some(value.to_owned()).filter(|value| !value.is_empty());
        self.taints.push(Taint { key: key.to_owned(), value, effect: "NoSchedule".to_owned(), time_added: None });
        self
    }

    pub(super) fn fault(mut self, condition: &str) -> NodeFacts {
        self.faults.push(condition.to_owned());
        self
    }
}

/// A job with what is left out of it.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) infrastructure: Infrastructure,
    pub(super) excluded: Vec<String>,
}

/// One pod with so many GPUs, or none at all.
pub(super) fn gpus(gpus_per_node: u32) -> Job {
    let infrastructure = Infrastructure { device: Device::Gpu, gpus_per_node, ..Infrastructure::default() };
    Job { infrastructure, excluded: Vec::new() }
}

/// One pod with so many GPUs if there are any.
pub(super) fn auto(gpus_per_node: u32) -> Job {
    gpus(gpus_per_node).with(|wish| wish.device = Device::Auto)
}

impl Job {
    pub(super) fn with(mut self, change: impl FnOnce(&mut Infrastructure)) -> Job {
        change(&mut self.infrastructure);
        self
    }

    pub(super) fn on(self, nodes: u32) -> Job {
        self.with(|wish| wish.nodes = nodes)
    }

    pub(super) fn of(self, resource: &str) -> Job {
        self.with(|wish| wish.gpu.resource_name = resource.to_owned())
    }

    pub(super) fn product(self, product: &str) -> Job {
        self.with(|wish| wish.gpu.products.push(product.to_owned()))
    }

    pub(super) fn memory(self, memory: &str) -> Job {
        self.with(|wish| wish.gpu.min_memory = Some(Quantity(memory.to_owned())))
    }

    pub(super) fn runtime(self, name: &str) -> Job {
        self.with(|wish| wish.runtime = Some(name.to_owned()))
    }

    pub(super) fn image(self, image: &str) -> Job {
        self.with(|wish| wish.image = Some(image.to_owned()))
    }

    pub(super) fn select(self, label: &str, value: &str) -> Job {
        self.with(|wish| {
            wish.pod.node_selector.insert(label.to_owned(), value.to_owned());
        })
    }

    /// The job's own required terms, as YAML writes them.
    #[expect(clippy::needless_pass_by_value, reason = "a table of a test reads better without references")]
    pub(super) fn terms(self, terms: serde_json::Value) -> Job {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        let affinity: Affinity = serde_json::from_value(json!({"nodeAffinity": required})).expect("an affinity");
        self.with(|wish| wish.pod.affinity = Some(affinity.into()))
    }

    pub(super) fn without(mut self, node: &str) -> Job {
        self.excluded.push(node.to_owned());
        self
    }

    pub(super) fn request(&self) -> Request<'_> {
        Request::together(&self.infrastructure, &self.excluded)
    }

    pub(super) fn placed(&self, pool: &[NodeFacts]) -> Result<Placed, Refusal> {
        place(&self.request(), Some(pool), &catalogue())
    }

    /// Why it has no place.
    pub(super) fn refused(&self, pool: &[NodeFacts]) -> String {
        self.placed(pool).expect_err("a refusal").message
    }

    /// Why it has the place that it has.
    pub(super) fn reason(&self, pool: &[NodeFacts]) -> String {
        let placed = self.placed(pool).unwrap_or_else(|refusal| panic!("{refusal}"));
        format!("{:?}: {}", placed.device, placed.reason)
    }
}

/// One runtime for each CUDA that R7 names.
pub(super) fn catalogue() -> Catalogue {
    let yaml = r#"
runtimes:
  - {name: cuda-10.2, image: "t:10.2", cuda: "10.2", computeCapabilities: ["3.7", "5.0", "6.0", "7.0"]}
  - {name: cuda-11.3, image: "t:11.3", cuda: "11.3", computeCapabilities: ["3.7", "5.0", "6.0", "7.0", "7.5", "8.0", "8.6"]}
  - {name: cuda-12.4, image: "t:12.4", cuda: "12.4", computeCapabilities: ["5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "9.0"]}
  - {name: cuda-13.0, image: "t:13.0", cuda: "13.0", computeCapabilities: ["7.5", "8.0", "8.6", "9.0", "10.0", "12.0"]}
  - {name: cpu, image: "t:cpu"}
"#;
    Catalogue::parse(yaml).expect("a catalogue")
}

/// The required terms of what was placed; empty if there are none.
pub(super) fn required(placed: &Placed) -> Vec<NodeSelectorTerm> {
    let affinity = placed.affinity.clone().and_then(|affinity| affinity.node_affinity);
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution);
    required.map(|required| required.node_selector_terms).unwrap_or_default()
}
