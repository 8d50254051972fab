//! Every label, condition and taint of a node that is somebody else's name: the one place for them, each with its source.
//!
//! GPU Feature Discovery (GFD) writes its labels from NVML once a minute; its source is `internal/lm` of
//! NVIDIA/k8s-device-plugin, its list `docs/gpu-feature-discovery/README.md` there.

/// The driver's version, part by part: `580`, `65`, `06`. The last is empty where the driver has two numbers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverLabels {
    /// The branch.
    pub major: &'static str,
    /// The release in the branch.
    pub minor: &'static str,
    /// The revision.
    pub revision: &'static str,
}

/// The driver's version as GFD 0.15 and later write it.
pub const DRIVER: DriverLabels = DriverLabels {
    major: "nvidia.com/cuda.driver-version.major",
    minor: "nvidia.com/cuda.driver-version.minor",
    revision: "nvidia.com/cuda.driver-version.revision",
};

/// The driver's version as every GFD up to now writes it; deprecated since 0.15.
pub const OLD_DRIVER: DriverLabels = DriverLabels {
    major: "nvidia.com/cuda.driver.major",
    minor: "nvidia.com/cuda.driver.minor",
    revision: "nvidia.com/cuda.driver.rev",
};

/// The newest CUDA of the driver: major version (GFD 0.15 and later), then the deprecated name.
pub const CUDA_MAJOR: [&str; 2] = ["nvidia.com/cuda.runtime-version.major", "nvidia.com/cuda.runtime.major"];
/// The newest CUDA of the driver: minor version (GFD 0.15 and later), then the deprecated name.
pub const CUDA_MINOR: [&str; 2] = ["nvidia.com/cuda.runtime-version.minor", "nvidia.com/cuda.runtime.minor"];

/// Compute capability of the GPUs, major. Always of the whole GPU, also beside MIG profiles.
pub const COMPUTE_MAJOR: &str = "nvidia.com/gpu.compute.major";
/// Compute capability of the GPUs, minor.
pub const COMPUTE_MINOR: &str = "nvidia.com/gpu.compute.minor";
/// Product of the whole GPUs; with MIG's single strategy that of a slice, and with renamed sharing off it ends in `-SHARED`.
pub const GPU_PRODUCT: &str = "nvidia.com/gpu.product";
/// Number of GPUs of the node; with MIG's single strategy that of the slices.
pub const GPU_COUNT: &str = "nvidia.com/gpu.count";
/// How the node's MIG slices are offered: `single` (as `nvidia.com/gpu`) or `mixed` (as `nvidia.com/mig-1g.5gb`).
pub const MIG_STRATEGY: &str = "nvidia.com/mig.strategy";

/// The architecture of a node, by Go's name for it: `amd64`, `arm64`. Its kubelet writes it.
pub const ARCHITECTURE: &str = "kubernetes.io/arch";
/// The system of a node: `linux`, `windows`. Its kubelet writes it.
pub const SYSTEM: &str = "kubernetes.io/os";
/// The system that our images are for.
pub const LINUX: &str = "linux";

/// The resource of whole GPUs, and the key of the taint that keeps other pods away from them by custom.
pub const GPU: &str = "nvidia.com/gpu";
/// What the device plugin appends to a resource that is shared with `renameByDefault`.
pub const SHARED_SUFFIX: &str = ".shared";

/// Ends of the labels that GFD writes for each resource: `nvidia.com/gpu.product`, `nvidia.com/mig-1g.5gb.product`.
pub const PRODUCT: &str = "product";
/// Memory of each device of the resource in MiB.
pub const MEMORY: &str = "memory";
/// Number of devices, each once however many pods get it.
pub const COUNT: &str = "count";
/// Pods that get the same device: 1, more where it is shared, 0 where the resource is not offered.
pub const REPLICAS: &str = "replicas";
/// How a device is shared: `none`, `time-slicing`, `mps`. Since GFD 0.15; before, replicas alone tell.
pub const SHARING: &str = "sharing-strategy";
/// Values of [`SHARING`] that give several pods the same device.
pub const SHARED_BY: [&str; 2] = ["time-slicing", "mps"];

/// The label of a resource: `label("nvidia.com/gpu", PRODUCT)`. A resource that sharing renamed keeps its labels' names.
pub fn label(resource: &str, end: &str) -> String {
    format!("{}.{end}", resource.strip_suffix(SHARED_SUFFIX).unwrap_or(resource))
}

/// Conditions of a node that say that a GPU of it is at fault, with the status that says so. NVSentinel's
/// (NVIDIA/NVSentinel, health monitors) are named after their check, and True is bad; Amazon's node monitoring agent has one
/// of its own, where False is bad.
pub const FAULTS: [(&str, &str); 7] = [
    ("GpuMemWatch", "True"),
    ("GpuNvlinkWatch", "True"),
    ("GpuPcieWatch", "True"),
    ("GpuThermalWatch", "True"),
    ("SysLogsXIDError", "True"),
    ("SysLogsGPUFallenOff", "True"),
    ("AcceleratedHardwareReady", "False"),
];
/// What NVSentinel does about a node.
pub const SENTINEL_STATE: &str = "dgxc.nvidia.com/nvsentinel-state";
/// Begin of the taints that NVIDIA's DRA driver puts on what is at fault: `gpu.nvidia.com/xid`, `gpu.nvidia.com/gpu-lost`.
pub const FAULT_TAINTS: &str = "gpu.nvidia.com/";
/// Begins of the taints that Kubernetes itself puts on a node and takes away again: not ready, unreachable, cordoned, under
/// pressure, not yet initialised, shut down.
pub const PASSING_TAINTS: [&str; 2] = ["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"];
