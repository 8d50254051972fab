//! Errors of libtorch, sorted by what a person or the operator does about them.

use crds::contract::Cause;
use tch::TchError;
use thiserror::Error;

/// What libtorch threw.
#[derive(Debug, Error)]
pub enum TorchError {
    /// Another rank is gone, or the network between the ranks failed.
    #[error("the connection to another rank was lost: {0}")]
    PeerLost(String),
    /// Another rank did not answer in time.
    #[error("another rank did not answer in time: {0}")]
    Timeout(String),
    /// Host memory ran out.
    #[error("host memory ran out: {0}; use a smaller batch or give the process more memory")]
    HostMemory(String),
    /// GPU memory ran out.
    #[error("GPU memory ran out: {0}; use a smaller batch or image, or a GPU with more memory")]
    GpuMemory(String),
    /// The driver or the GPU's architecture does not fit this build of libtorch, or there is no GPU.
    #[error("the GPU can't be used: {0}; use a node whose driver and GPU fit the runtime, or another precision")]
    GpuUnsupported(String),
    /// The GPU itself or its link failed.
    #[error("the GPU failed: {0}")]
    DeviceFault(String),
    /// A value that must be finite is not.
    #[error("not finite: {0}; lower the learning rate or clip the gradients")]
    NotFinite(String),
    /// A batch norm in training has one value of each channel, from which nothing is to be learned.
    #[error("{0}; set training.batchSize to 2 or more, or data.imageSize larger")]
    TooFewValues(String),
    /// Only deterministic algorithms are allowed, and there is none.
    #[error("{0}; set training.deterministic to false, or train on CPUs")]
    NotDeterministic(String),
    /// The CUDA plug-in can't be used.
    #[error("the CUDA plug-in {path} can't be used: {text}; run on a CPU or use an image with CUDA")]
    NoCuda {
        /// Where it was looked for.
        path: String,
        /// What the loader said.
        text: String,
    },
    /// Anything else: shapes that don't fit, an operation out of order.
    #[error("libtorch: {0}")]
    Other(String),
}

/// What kind of exception the shim caught; the numbers are `ty_status` of `shim.h`.
pub(super) const DISTRIBUTED: i32 = 2;
const HOST_MEMORY: i32 = 3;
const DEVICE_MEMORY: i32 = 4;
const DEVICE_FAULT: i32 = 5;

/// What PyTorch says of a batch norm that has nothing to learn from.
const ONE_VALUE: &str = "Expected more than 1 value per channel when training";

/// What CUDA says once an assertion in a kernel has failed: of this call, and of every other one of the process from then on.
pub(crate) const ASSERTED: &str = "device-side assert triggered";

/// The kind of error that a text becomes.
type Sort = fn(String) -> TorchError;

/// Texts of libtorch, Gloo and NCCL by which failures are told apart that share one exception type, in order of trust.
const PHRASES: [(&str, Sort); 43] = [
    ("CUDA driver version is insufficient", TorchError::GpuUnsupported),
    ("no CUDA-capable device", TorchError::GpuUnsupported),
    ("no kernel image is available", TorchError::GpuUnsupported),
    ("invalid device function", TorchError::GpuUnsupported),
    ("Found no NVIDIA driver", TorchError::GpuUnsupported),
    ("CUDA out of memory", TorchError::GpuMemory),
    // CUDA's runtime and driver, NCCL, cuBLAS, cuDNN: what they take they take beside libtorch's allocator.
    ("error: out of memory", TorchError::GpuMemory),
    ("'out of memory'", TorchError::GpuMemory),
    ("_STATUS_ALLOC_FAILED", TorchError::GpuMemory),
    // Their handles are made on first use, and what they lack then is mostly memory.
    ("_STATUS_NOT_INITIALIZED", TorchError::GpuMemory),
    ("DEVICE_ALLOCATION_FAILED", TorchError::GpuMemory),
    ("HOST_ALLOCATION_FAILED", TorchError::HostMemory),
    ("DefaultCPUAllocator: not enough memory", TorchError::HostMemory),
    ("DefaultCPUAllocator: can't allocate memory", TorchError::HostMemory),
    // A shape, a precision or a version that these libraries have no code for on this GPU.
    ("_STATUS_NOT_SUPPORTED", TorchError::GpuUnsupported),
    ("_STATUS_ARCH_MISMATCH", TorchError::GpuUnsupported),
    ("VERSION_MISMATCH", TorchError::GpuUnsupported),
    // The program has asked for what can't be: another GPU would say the same.
    ("_STATUS_BAD_PARAM", TorchError::Other),
    (ASSERTED, TorchError::Other),
    ("invalid configuration argument", TorchError::Other),
    ("_STATUS_INVALID_VALUE", TorchError::Other),
    ("CUDA error", TorchError::DeviceFault),
    ("CUDNN_STATUS", TorchError::DeviceFault),
    ("CUBLAS_STATUS", TorchError::DeviceFault),
    ("ncclUnhandledCudaError", TorchError::DeviceFault),
    ("non-finite", TorchError::NotFinite),
    (ONE_VALUE, TorchError::TooFewValues),
    ("does not have a deterministic implementation", TorchError::NotDeterministic),
    ("is not deterministic because it uses CuBLAS", TorchError::NotDeterministic),
    ("Timed out", TorchError::Timeout),
    ("timed out", TorchError::Timeout),
    ("timeout", TorchError::Timeout),
    ("Connection closed by peer", TorchError::PeerLost),
    ("Connection reset by peer", TorchError::PeerLost),
    ("Connection refused", TorchError::PeerLost),
    ("Connection was likely closed", TorchError::PeerLost),
    ("Broken pipe", TorchError::PeerLost),
    ("Socket closed", TorchError::PeerLost),
    ("No route to host", TorchError::PeerLost),
    ("Network is unreachable", TorchError::PeerLost),
    ("failed to recv", TorchError::PeerLost),
    ("ncclRemoteError", TorchError::PeerLost),
    ("ncclSystemError", TorchError::PeerLost),
];

impl TorchError {
    /// Sorts a failure by the kind of exception and its text.
    pub(super) fn from_status(status: i32, text: &str) -> TorchError {
        let text = one_line(text);
        match (status, PHRASES.iter().find(|(phrase, _)| text.contains(phrase))) {
            (HOST_MEMORY, _) => TorchError::HostMemory(text),
            (DEVICE_MEMORY, _) => TorchError::GpuMemory(text),
            (_, Some((_, kind))) => kind(text),
            (DEVICE_FAULT, None) => TorchError::DeviceFault(text),
            (DISTRIBUTED, None) => TorchError::PeerLost(text),
            (_, None) => TorchError::Other(text),
        }
    }

    /// Sorts a failure by its text alone.
    pub fn from_text(text: impl AsRef<str>) -> TorchError {
        Self::from_status(0, text.as_ref())
    }

    /// Sorts what a panic of tch says, whose functions unwrap what libtorch threw. None if it is no such panic, or of a kind
    /// that is not known: then it is a defect.
    pub(crate) fn from_panic(text: &str) -> Option<TorchError> {
        let (_, thrown) = text.split_once("an `Err` value: Torch(\"")?;
        match Self::from_text(thrown.trim_end_matches("\")").replace("\\n", "\n")) {
            TorchError::Other(_) => None,
            known => Some(known),
        }
    }

    /// A batch norm in training that sees one value of each channel, of images of this shape.
    pub(crate) fn too_few_values(shape: &[i64]) -> TorchError {
        TorchError::TooFewValues(format!("{ONE_VALUE}, got input size {shape:?}"))
    }

    /// As tch's functions tell it: with libtorch's own words, by which [`from_text`](Self::from_text) sorts it again.
    pub(crate) fn into_tch(self) -> TchError {
        TchError::Torch(match self {
            TorchError::PeerLost(text)
            | TorchError::Timeout(text)
            | TorchError::HostMemory(text)
            | TorchError::GpuMemory(text)
            | TorchError::GpuUnsupported(text)
            | TorchError::DeviceFault(text)
            | TorchError::NotFinite(text)
            | TorchError::TooFewValues(text)
            | TorchError::NotDeterministic(text)
            | TorchError::Other(text)
            | TorchError::NoCuda { text, .. } => text,
        })
    }

    /// A stable name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            TorchError::PeerLost(_) => "peer-lost",
            TorchError::Timeout(_) => "timeout",
            TorchError::HostMemory(_) => "host-memory",
            TorchError::GpuMemory(_) => "gpu-memory",
            TorchError::GpuUnsupported(_) => "gpu-unsupported",
            TorchError::DeviceFault(_) => "device-fault",
            TorchError::NotFinite(_) => "not-finite",
            TorchError::TooFewValues(_) => "too-few-values",
            TorchError::NotDeterministic(_) => "not-deterministic",
            TorchError::NoCuda { .. } => "no-cuda",
            TorchError::Other(_) => "other",
        }
    }

    /// The cause with which a process ends that can't go on after this.
    pub fn cause(&self) -> Cause {
        match self {
            TorchError::PeerLost(_) | TorchError::Timeout(_) => Cause::PeerLost,
            TorchError::HostMemory(_) => Cause::HostMemory,
            TorchError::GpuMemory(_) => Cause::GpuMemory,
            TorchError::DeviceFault(_) => Cause::NodeFault,
            TorchError::NotFinite(_) => Cause::NotFinite,
            TorchError::TooFewValues(_) | TorchError::NotDeterministic(_) => Cause::BadSpec,
            TorchError::GpuUnsupported(_) | TorchError::NoCuda { .. } => Cause::GpuUnsupported,
            TorchError::Other(_) => Cause::Bug,
        }
    }
}

/// The text without what libtorch adds for developers: advice on debugging CUDA and for Python, traces of C++.
fn one_line(text: &str) -> String {
    const ADDED: [&str; 5] = [
        "\nSearch for `cuda",
        "\nCUDA kernel errors might",
        ". You can turn off determinism",
        "\nException raised from",
        "\n\nException",
    ];
    let end = ADDED.iter().filter_map(|added| text.find(added)).min().unwrap_or(text.len());
    text[..end].split_whitespace().collect::<Vec<_>>().join(" ")
}

impl From<TchError> for TorchError {
    fn from(error: TchError) -> TorchError {
        match error {
            TchError::Torch(text) => TorchError::from_text(text),
            other => TorchError::Other(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_sorted_by_kind_and_text() {
        let table = [
            (1, "[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:3", "peer-lost"),
            (1, "[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms for recv", "timeout"),
            (2, "wait timeout after 500ms, keys: /a", "timeout"),
            (2, "something new about the network", "peer-lost"),
            (1, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", "host-memory"),
            (3, "std::bad_alloc", "host-memory"),
            (0, "CUDA out of memory. Tried to allocate 2.00 GiB", "gpu-memory"),
            (5, "CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`", "gpu-memory"),
            (1, "CUDA driver error: out of memory", "gpu-memory"),
            (2, "ncclUnhandledCudaError: Call to CUDA function failed. Cuda failure 2 'out of memory'", "gpu-memory"),
            (1, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "gpu-memory"),
            (1, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "gpu-memory"),
            (1, "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "gpu-memory"),
            (1, "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", "host-memory"),
            (1, "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", "gpu-memory"),
            (1, "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed", "gpu-unsupported"),
            (1, "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED_SHAPE", "gpu-unsupported"),
            (1, "CUDA error: CUBLAS_STATUS_ARCH_MISMATCH when calling `cublasGemmEx(`", "gpu-unsupported"),
            (1, "cuDNN error: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH", "gpu-unsupported"),
            (1, "cuDNN error: CUDNN_STATUS_BAD_PARAM", "other"),
            (1, "CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm(`", "other"),
            (5, "CUDA error: device-side assert triggered", "other"),
            (5, "CUDA error: invalid configuration argument", "other"),
            (5, "CUDA error: invalid device function", "gpu-unsupported"),
            (1, "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(`", "device-fault"),
            (1, "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "device-fault"),
            (5, "CUDA error: an illegal memory access was encountered", "device-fault"),
            (5, "CUDA error: CUDA driver version is insufficient for CUDA runtime version", "gpu-unsupported"),
            (
                1,
                "Expected more than 1 value per channel when training, got input size [1, 512, 1, 1]",
                "too-few-values",
            ),
            (
                1,
                "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but",
                "not-deterministic",
            ),
            (1, "mat1 and mat2 shapes cannot be multiplied", "other"),
        ];
        for (status, text, category) in table {
            assert_eq!(TorchError::from_status(status, text).category(), category, "{text}");
        }
    }

    #[test]
    fn a_panic_of_tch_tells_what_libtorch_threw() {
        let told =
            "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA error: out of memory\\nSearch for `cudaError\")";
        let error = TorchError::from_panic(told).unwrap();
        assert_eq!((error.cause(), error.category()), (Cause::GpuMemory, "gpu-memory"));
        assert!(error.to_string().starts_with("GPU memory ran out: CUDA error: out of memory; use"), "{error}");
        assert!(TorchError::from_panic("called `Result::unwrap()` on an `Err` value: Torch(\"a shape\")").is_none());
        assert!(TorchError::from_panic("the channel timed out").is_none(), "not by libtorch");
    }

    #[test]
    fn texts_for_libtorch_s_developers_are_left_out() {
        let text = "CUDA error: out of luck\nSearch for `cudaErrorLuck' in https://docs\nFor debugging consider";
        assert_eq!(TorchError::from_text(text).to_string(), "the GPU failed: CUDA error: out of luck");
        let trace =
            "size mismatch,\n got 1\nException raised from check at x.cpp:3 (most recent call first):\nframe #0";
        assert_eq!(TorchError::from_text(trace).to_string(), "libtorch: size mismatch, got 1");
    }
}
