//! GPUs that a device plug-in offers and that are not there: what is placed by them ends with its cause.

use crds::TrainingJob;
use crds::contract::Cause;
use crds::status::Phase;
use serde_json::json;

use crate::jobs::phase;
use crate::yard::Yard;

pub(crate) fn no_driver(yard: &mut Yard) {
    yard.rig.node("b").offer_gpus(2).expect("a device plug-in");
    // As GPU Feature Discovery would for such a node.
    yard.kubectl([
        "label",
        "node",
        "b",
        "nvidia.com/gpu.present=true",
        "nvidia.com/gpu.count=2",
        "nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3",
        "nvidia.com/gpu.memory=81559",
        "nvidia.com/gpu.compute.major=9",
        "nvidia.com/gpu.compute.minor=0",
        "nvidia.com/cuda.driver-version.major=580",
        "nvidia.com/cuda.driver-version.minor=65",
        "nvidia.com/cuda.driver-version.revision=06",
        "nvidia.com/cuda.driver-version.full=580.65.06",
    ]);
    yard.until_true("node b offers GPUs", || {
        yard.kubectl(["get", "node", "b", "-o", "jsonpath={.status.allocatable.nvidia\\.com/gpu}"]) == "2"
    });
    let mut job = Yard::example("digits-training.yaml");
    job["metadata"]["name"] = json!("digits-gpu");
    job["spec"]["infrastructure"] = json!({"device": "Gpu", "gpusPerNode": 1});
    job["spec"]["output"]["uri"] = json!("pvc://models/digits-gpu");
    yard.apply(&job);
    let ended = yard.until("digits-gpu", "it ends", |job: &TrainingJob| phase(job).is_terminal());
    let status = ended.status.unwrap_or_default().job;
    assert_eq!(status.phase, Phase::Failed, "{status:?}");
    let first = status.attempts.first().expect("an attempt");
    assert_eq!((first.cause, first.exit_code, first.node.as_deref()), (Cause::GpuUnsupported, Some(69), Some("b")));
    assert!(status.message.contains("there is no other node to try"), "{}", status.message);
}
