//! Jobs that take what there is, while GPUs are away for a time.

use crds::infrastructure::Device;

use super::builders::*;
use crate::observe::NodeFacts;
use crate::observe::node::labels;
use crate::placement::{Refusal, Request, place};

/// What a job gets while the nodes that it leaves out come back, but for the unfit ones.
fn later(job: &Job, unfit: &[&str], pool: &[NodeFacts]) -> Result<Device, Refusal> {
    let unfit: Vec<String> = unfit.iter().map(|name| (*name).to_owned()).collect();
    let request = Request { unfit: &unfit, ..job.request() };
    place(&request, Some(pool), &catalogue()).map(|placed| placed.device)
}

/// What a job gets that was on GPUs before.
fn again(job: &Job, pool: &[NodeFacts]) -> Result<Device, Refusal> {
    let request = Request { had_gpus: true, ..job.request() };
    place(&request, Some(pool), &catalogue()).map(|placed| placed.device)
}

#[test]
fn auto_waits_for_gpus_that_are_left_out_for_a_while_and_for_no_others() {
    let pool = [h100("a", 8), h100("b", 8), cpus("c")];
    let both = || auto(1).without("a").without("b");
    assert_eq!(later(&auto(1).without("a"), &[], &pool), Ok(Device::Gpu), "the other node will do");
    let refusal = later(&both(), &["b"], &pool).unwrap_err();
    assert_eq!(refusal.message, "nodes where an attempt met a fault are left out; none of 2 GPU nodes is left");
    assert_eq!(refusal.hint, "They are tried again after a while; repair them, or add nodes");
    assert_eq!(later(&both(), &["a", "b"], &pool), Ok(Device::Cpu), "none of them comes back");
    assert_eq!(later(&auto(1).without("c"), &[], &[cpus("c"), cpus("d")]), Ok(Device::Cpu), "no GPUs come with it");

    assert!(later(&auto(8).on(2).without("a"), &[], &pool).is_err(), "a gang waits until it has room again");
    assert_eq!(later(&auto(8).on(3).without("a"), &[], &pool), Ok(Device::Cpu), "which it would not have then");
    assert_eq!(later(&both().runtime("cpu"), &[], &pool), Ok(Device::Cpu), "it names a runtime for CPUs");
}

#[test]
fn auto_waits_for_the_device_plugin_of_a_node_that_it_had_gpus_of() {
    let starts_anew = |node: NodeFacts| node.offers(labels::GPU, 0);
    let pool = [starts_anew(h100("a", 8)), cpus("c")];
    let refusal = again(&auto(8), &pool).unwrap_err();
    assert_eq!(
        refusal.message,
        "no node has nvidia.com/gpu (2 nodes were looked at; 1 of them with labels of GPUs and none to give)"
    );
    assert_eq!(auto(8).placed(&pool).map(|placed| placed.device), Ok(Device::Cpu), "it may never have worked");
    assert_eq!(again(&auto(9), &pool), Ok(Device::Cpu), "there are 8");
    assert_eq!(again(&auto(1), &[cpus("c")]), Ok(Device::Cpu), "the node is gone");
    assert_eq!(again(&auto(8).without("a"), &pool), Ok(Device::Cpu), "its GPUs can't be used");
    let sliced = h100("a", 8).mig_mixed("1g.10gb", 56, 9_728);
    assert_eq!(again(&auto(1), &[sliced]), Ok(Device::Cpu), "they are given away in slices");
    let shared = starts_anew(h100("a", 2).shared("time-slicing", 4));
    assert!(again(&auto(1).on(8), std::slice::from_ref(&shared)).is_err(), "each to four pods");
    assert_eq!(again(&auto(1).on(9), &[shared]), Ok(Device::Cpu));
    assert_eq!(again(&auto(8), &[h100("a", 8)]), Ok(Device::Gpu), "it is back");
}
