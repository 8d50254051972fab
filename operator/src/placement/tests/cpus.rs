//! Jobs that compute on CPUs and ask for much of them.

use crds::infrastructure::Device;
use serde_json::json;

use super::builders::*;
use crate::observe::NodeFacts;
use crate::placement::{Request, place};

fn has(name: &str, cpus_of_it: u64, gib: u64) -> NodeFacts {
    NodeFacts { cpu: Some(cpus_of_it * 1000), memory_bytes: Some(gib << 30), ..cpus(name) }
}

fn asks(device: Device, cpu: &str, memory: &str) -> Job {
    let resources = json!({"requests": {"cpu": cpu, "memory": memory}});
    gpus(1).with(|wish| (wish.device, wish.pod.resources) = (device, serde_json::from_value(resources).ok()))
}

#[test]
fn what_no_node_has_of_cpus_and_memory_is_refused_with_counts() {
    let pool = [has("a", 16, 64), has("b", 32, 128), has("small", 4, 8).taint("reserved", "")];
    for (job, sentence) in [
        (
            asks(Device::Cpu, "64", "1Gi"),
            "each pod needs 64 CPUs and 1Gi of memory; none of the 2 nodes that the job may use has them (the most CPUs of one are 32)",
        ),
        (
            asks(Device::Cpu, "1", "1Ti"),
            "each pod needs 1 CPUs and 1Ti of memory; none of the 2 nodes that the job may use has them (the most memory of one is 128Gi)",
        ),
        (
            asks(Device::Cpu, "16", "64Gi").on(4),
            "4 pods of 16 CPUs and 64Gi of memory each must run at a time, and there is room for 3 on the 2 nodes that the job may use",
        ),
        (
            asks(Device::Cpu, "16", "100Gi").without("b"),
            "each pod needs 16 CPUs and 100Gi of memory; none of the 1 node that the job may use has them (the most memory of one is 64Gi)",
        ),
        (
            asks(Device::Auto, "64", "1Gi"),
            "no GPUs for this job: no node has nvidia.com/gpu (3 nodes were looked at); each pod needs 64 CPUs and 1Gi of memory; none of the 2 nodes that the job may use has them (the most CPUs of one are 32)",
        ),
    ] {
        assert_eq!(job.refused(&pool), sentence);
    }
    assert!(asks(Device::Cpu, "16", "64Gi").on(3).placed(&pool).is_ok(), "one on the first node, two on the second");
}

#[test]
fn what_nobody_can_tell_to_be_too_large_is_placed() {
    let large = asks(Device::Cpu, "64", "1Ti");
    assert!(large.placed(&[cpus("a")]).is_ok(), "this node does not say what it has");
    assert!(large.placed(&[]).is_ok(), "nodes may come");
    let autoscaled = Request { autoscaled: true, ..large.request() };
    assert!(place(&autoscaled, Some(&[has("a", 16, 64)]), &catalogue()).is_ok(), "an autoscaler brings larger ones");
    assert!(place(&large.request(), None, &catalogue()).is_ok(), "nodes are not read");
}
