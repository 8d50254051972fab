//! What a job asks of each of its nodes, filter by filter. The same filters are judged here, written into the pod by
//! [`terms`](super::terms) and counted by [`funnel`](super::funnel).

use std::collections::BTreeMap;

use crds::infrastructure::Infrastructure;
use crds::quantity;
use k8s_openapi::api::core::v1::{NodeSelectorTerm, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::catalogue::{Cuda, Runtime};
use super::selector;
use crate::observe::NodeFacts;
use crate::observe::node::{Reading, labels};

/// One thing that a job asks of a node, in the order in which nodes are counted out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// It has the resource.
    Offered,
    /// The job's own nodeSelector and affinity allow it.
    Chosen,
    /// The job tolerates its taints.
    Tolerated,
    /// It is not left out because an attempt failed there.
    Kept,
    /// Its product is one of `gpu.products`.
    Product,
    /// Its devices have `gpu.minMemory`.
    Memory,
    /// Its devices are not shared, if a pod takes two or more.
    Unshared,
    /// The runtime's image is for its system and architecture.
    Platform,
    /// Its driver runs the runtime's CUDA.
    Driver,
    /// The runtime has code for its GPUs.
    Compute,
    /// It has as many devices, CPUs and as much memory as one pod takes.
    Size,
}

impl Step {
    /// All of them, in their order.
    pub const ALL: [Step; 11] = [
        Step::Offered,
        Step::Chosen,
        Step::Tolerated,
        Step::Kept,
        Step::Product,
        Step::Memory,
        Step::Unshared,
        Step::Platform,
        Step::Driver,
        Step::Compute,
        Step::Size,
    ];
}

/// What a job asks of each of its nodes.
#[derive(Clone, Debug)]
pub(super) struct Gate<'a> {
    pub(super) infrastructure: &'a Infrastructure,
    /// The runtime; `None` for an image whose CUDA nobody knows.
    pub(super) runtime: Option<&'a Runtime>,
    /// Names of nodes that are left out.
    pub(super) excluded: Vec<&'a str>,
    /// What the pods tolerate.
    pub(super) tolerations: Vec<Toleration>,
    /// Whether nodes that say nothing about their driver and GPUs will do: where none says anything.
    pub(super) bare_will_do: bool,
}

impl<'a> Gate<'a> {
    pub(super) fn resource(&self) -> &'a str {
        &self.infrastructure.gpu.resource_name
    }

    pub(super) fn per_pod(&self) -> u64 {
        u64::from(self.infrastructure.gpus_per_node)
    }

    pub(super) fn cuda(&self) -> Option<&'a Cuda> {
        self.runtime.and_then(|runtime| runtime.cuda.as_ref())
    }

    /// The architectures that the image is for; `None` for one of the user's own, of which nobody knows.
    pub(super) fn architectures(&self) -> Option<&'a [String]> {
        let ours = self.runtime.filter(|_| self.infrastructure.image.is_none());
        ours.map(|runtime| runtime.architectures.as_slice())
    }

    /// Least memory of each device in MiB, rounded up; `None` if any will do. What is no quantity asks for more than there is.
    pub(super) fn memory(&self) -> Option<i64> {
        let wanted = self.infrastructure.gpu.min_memory.as_ref()?;
        let bytes = quantity::ceiling(&wanted.0).unwrap_or(u128::MAX);
        Some(i64::try_from(bytes.div_ceil(1 << 20)).unwrap_or(i64::MAX)).filter(|least| *least > 0)
    }

    /// The labels that may name the product: the resource's own, and beside MIG profiles that of the whole GPU.
    pub(super) fn product_labels(&self) -> Vec<String> {
        let own = labels::label(self.resource(), labels::PRODUCT);
        let whole = labels::GPU_PRODUCT.to_owned();
        if own == whole { vec![own] } else { vec![own, whole] }
    }

    /// The job's own required affinity; `None` if it has none.
    pub(super) fn own_terms(&self) -> Option<&'a [NodeSelectorTerm]> {
        let affinity = self.infrastructure.pod.affinity.as_ref()?.get()?.node_affinity.as_ref()?;
        Some(&affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms)
    }

    /// Whether the node passes one filter.
    pub(super) fn passes(&self, step: Step, node: &NodeFacts) -> bool {
        let unknown_will_do = self.bare_will_do && node.is_bare();
        match step {
            Step::Offered => node.devices(self.resource()) > 0,
            Step::Chosen => {
                selector::has_labels(node, &self.infrastructure.pod.node_selector)
                    && self.own_terms().is_none_or(|terms| selector::any_matches(node, terms))
            }
            Step::Tolerated => selector::closing(node, &self.tolerations).next().is_none(),
            Step::Kept => !self.excluded.contains(&node.name.as_str()),
            Step::Product => {
                let products = &self.infrastructure.gpu.products;
                let wanted = |label: &String| node.labels.get(label).is_some_and(|product| products.contains(product));
                products.is_empty() || self.product_labels().iter().any(wanted)
            }
            Step::Memory => self
                .memory()
                .is_none_or(|least| node.memory(self.resource()).known().is_some_and(|memory| memory >= least)),
            Step::Unshared => self.per_pod() < 2 || self.is_unshared(node),
            Step::Platform => self.architectures().is_none_or(|built| is_of(node, built)),
            Step::Driver => self.cuda().is_none_or(|cuda| unknown_will_do || runs(node, cuda)),
            Step::Compute => self.cuda().is_none_or(|cuda| unknown_will_do || has_code(node, cuda)),
            Step::Size => self.pods_on(node) > 0,
        }
    }

    /// What a pod asks for of `cpu` or `memory`, as it is written: a limit is a request where there is none.
    pub(super) fn asked(&self, name: &str) -> Option<&'a str> {
        let resources = self.infrastructure.pod.resources.as_ref()?;
        let of = |list: &'a Option<BTreeMap<String, Quantity>>| list.as_ref().and_then(|list| list.get(name));
        of(&resources.requests).or_else(|| of(&resources.limits)).map(|amount| amount.0.as_str())
    }

    /// The thousandths of a CPU that a pod asks for. What is no quantity asks for more than there is.
    pub(super) fn asked_cpu(&self) -> u64 {
        amount(self.asked("cpu"), quantity::thousandths)
    }

    /// The bytes of memory that a pod asks for.
    pub(super) fn asked_memory(&self) -> u64 {
        amount(self.asked("memory"), quantity::ceiling)
    }

    /// What a pod asks for of both: "96 CPUs", "2Ti of memory".
    pub(super) fn sizes(&self) -> impl Iterator<Item = String> {
        let cpu = self.asked("cpu").map(|cpu| format!("{cpu} CPUs"));
        cpu.into_iter().chain(self.asked("memory").map(|memory| format!("{memory} of memory")))
    }

    /// Pods that have room on a node at a time, were it empty.
    pub(super) fn pods_on(&self, node: &NodeFacts) -> u64 {
        let devices = node.devices(self.resource()) / self.per_pod().max(1);
        devices.min(self.room_on(node))
    }

    /// The same by CPUs and memory alone.
    pub(super) fn room_on(&self, node: &NodeFacts) -> u64 {
        let room = |has: Option<u64>, each: u64| has.and_then(|has| has.checked_div(each)).unwrap_or(u64::MAX);
        room(node.cpu, self.asked_cpu()).min(room(node.memory_bytes, self.asked_memory()))
    }

    fn is_unshared(&self, node: &NodeFacts) -> bool {
        let resource = self.resource();
        let strategy = node.label(&labels::label(resource, labels::SHARING));
        let replicas = node.number(&labels::label(resource, labels::REPLICAS));
        !resource.ends_with(labels::SHARED_SUFFIX)
            && !strategy.is_some_and(|strategy| labels::SHARED_BY.contains(&strategy))
            && matches!(replicas, Reading::Absent | Reading::Known(..2))
    }
}

fn is_of(node: &NodeFacts, architectures: &[String]) -> bool {
    let own = node.label(labels::ARCHITECTURE);
    node.label(labels::SYSTEM) == Some(labels::LINUX)
        && architectures.iter().any(|architecture| own == Some(architecture.as_str()))
}

fn amount(asked: Option<&str>, read: fn(&str) -> Option<u128>) -> u64 {
    asked.map_or(0, |text| read(text).and_then(|amount| u64::try_from(amount).ok()).unwrap_or(u64::MAX))
}

/// Whether the node's driver is as new as the runtime needs: a later branch, or this branch and a later release, or this
/// release and the revision. A part that can't be read matters only where those before it leave it open.
fn runs(node: &NodeFacts, cuda: &Cuda) -> bool {
    let Some(names) = node.driver_labels() else { return false };
    let [major, minor, revision] = [cuda.driver.major, cuda.driver.minor, cuda.driver.revision].map(i64::from);
    let above = |name: &str, bound: i64| bound < 0 || node.number(name).known().is_some_and(|part| part > bound);
    let this_release = above(names.minor, minor - 1) && above(names.revision, revision - 1);
    above(names.major, major) || (above(names.major, major - 1) && (above(names.minor, minor) || this_release))
}

/// The runtime's code by generation: the generation with its first member that there is code for.
pub(super) fn generations(cuda: &Cuda) -> BTreeMap<u32, u32> {
    let mut first = BTreeMap::new();
    for built in &cuda.built {
        let minor = first.entry(built.major).or_insert(built.minor);
        *minor = built.minor.min(*minor);
    }
    first
}

fn has_code(node: &NodeFacts, cuda: &Cuda) -> bool {
    generations(cuda).into_iter().any(|(major, minor)| {
        node.label(labels::COMPUTE_MAJOR) == Some(&major.to_string())
            && (minor == 0 || node.number(labels::COMPUTE_MINOR).known().is_some_and(|has| has >= i64::from(minor)))
    })
}
