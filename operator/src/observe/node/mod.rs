//! A node as placement sees it: its labels and taints, what it has, and what they say about its GPUs.
//!
//! Nothing a node says makes this fail: a label that should be a number and is none is kept as [`Reading::Malformed`].

pub mod labels;

use std::collections::BTreeMap;

use crds::cuda::{Architecture, DriverVersion};
use crds::quantity;
use crds::xid::Xid;
use k8s_openapi::api::core::v1::{Node, Taint};

use labels::{DRIVER, DriverLabels, OLD_DRIVER};

/// A node, as far as placement asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// All its labels: a job may select by any.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether it was cordoned.
    pub cordoned: bool,
    /// Whether its kubelet says that it is ready.
    pub ready: bool,
    /// What it has of each extended resource (a name with a slash): all of it, in use or not.
    pub capacity: BTreeMap<String, u64>,
    /// What of that may be given to pods; less than its capacity where devices are at fault.
    pub allocatable: BTreeMap<String, u64>,
    /// Thousandths of a CPU that may be given to pods, in use or not; `None` if it does not say.
    pub cpu: Option<u64>,
    /// Bytes of memory, likewise.
    pub memory_bytes: Option<u64>,
    /// What says that a GPU of it is at fault: names of conditions and taints.
    pub faults: Vec<String>,
    /// The gravest Xid that its conditions report.
    pub xid: Option<Xid>,
}

/// What a label says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading<T> {
    /// There is no such label.
    Absent,
    /// There is one that can't be read: the label with its value.
    Malformed(String),
    /// What it says.
    Known(T),
}

impl<T> Reading<T> {
    /// What it says, if it says something.
    pub fn known(self) -> Option<T> {
        match self {
            Reading::Known(value) => Some(value),
            Reading::Absent | Reading::Malformed(_) => None,
        }
    }
}

impl NodeFacts {
    /// What `node` says of itself.
    pub fn of(node: &Node) -> NodeFacts {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let taints = spec.taints.unwrap_or_default();
        let extended = |quantities: Option<BTreeMap<String, _>>| {
            let quantities: BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity> =
                quantities.unwrap_or_default();
            let named = quantities.into_iter().filter(|(name, _)| name.contains('/'));
            named
                .filter_map(|(name, amount)| Some((name, u64::try_from(quantity::ceiling(&amount.0)?).ok()?)))
                .collect()
        };
        let given = |name: &str, read: fn(&str) -> Option<u128>| {
            let amount = status.allocatable.as_ref().and_then(|all| all.get(name))?;
            u64::try_from(read(&amount.0)?).ok()
        };
        let (cpu, memory_bytes) = (given("cpu", quantity::thousandths), given("memory", quantity::ceiling));
        let reported = conditions.iter().filter(|condition| {
            labels::FAULTS.iter().any(|(kind, bad)| condition.type_ == *kind && condition.status == *bad)
        });
        let xid =
            Xid::named_in(&reported.clone().filter_map(|one| one.message.as_deref()).collect::<Vec<_>>().join("\n"));
        let tainted = taints.iter().filter(|taint| taint.key.starts_with(labels::FAULT_TAINTS));
        let faults = reported.map(|one| one.type_.clone()).chain(tainted.map(|one| one.key.clone())).collect();
        NodeFacts {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            cordoned: spec.unschedulable.unwrap_or(false),
            ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            capacity: extended(status.capacity),
            allocatable: extended(status.allocatable),
            taints,
            cpu,
            memory_bytes,
            faults,
            xid,
        }
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// Its system and architecture, as images are named by: `linux/amd64`. Empty where it does not say.
    pub fn platform(&self) -> String {
        match (self.label(labels::SYSTEM), self.label(labels::ARCHITECTURE)) {
            (Some(system), Some(architecture)) => format!("{system}/{architecture}"),
            _ => String::new(),
        }
    }

    /// The whole number that a label says, as the scheduler's Gt and Lt read it.
    pub fn number(&self, name: &str) -> Reading<i64> {
        match self.label(name) {
            None => Reading::Absent,
            Some(text) => match text.parse() {
                Ok(number) => Reading::Known(number),
                Err(_) => Reading::Malformed(format!("{name}={text:?}")),
            },
        }
    }

    /// The names that this node's driver labels have: the new ones if it has them, else the deprecated ones; `None` if it
    /// has neither.
    pub fn driver_labels(&self) -> Option<DriverLabels> {
        [DRIVER, OLD_DRIVER].into_iter().find(|names| self.labels.contains_key(names.major))
    }

    /// The version of its driver. A driver of two numbers has an empty or no revision, which is 0.
    pub fn driver(&self) -> Reading<DriverVersion> {
        let Some(names) = self.driver_labels() else { return Reading::Absent };
        let part = |name: &str| match self.label(name) {
            Some("") | None if name == names.revision => Ok(0),
            Some(text) => text.parse().map_err(|_| format!("{name}={text:?}")),
            None => Err(format!("{name} is missing")),
        };
        let version = || {
            Ok(DriverVersion { major: part(names.major)?, minor: part(names.minor)?, revision: part(names.revision)? })
        };
        version().map_or_else(Reading::Malformed, Reading::Known)
    }

    /// The newest CUDA that its driver says it runs, as text: `13.0`.
    pub fn cuda(&self) -> Option<String> {
        let first = |names: [&str; 2]| names.into_iter().find_map(|name| self.label(name)).map(str::to_owned);
        Some(format!("{}.{}", first(labels::CUDA_MAJOR)?, first(labels::CUDA_MINOR)?))
    }

    /// The compute capability of its GPUs.
    pub fn architecture(&self) -> Reading<Architecture> {
        let part = |name: &str| match self.label(name) {
            Some(text) => text.parse().map_err(|_| format!("{name}={text:?}")),
            None => Err(format!("{name} is missing")),
        };
        if !self.labels.contains_key(labels::COMPUTE_MAJOR) {
            return Reading::Absent;
        }
        let both = || Ok(Architecture { major: part(labels::COMPUTE_MAJOR)?, minor: part(labels::COMPUTE_MINOR)? });
        both().map_or_else(Reading::Malformed, Reading::Known)
    }

    /// Memory of each device of a resource, in MiB.
    pub fn memory(&self, resource: &str) -> Reading<i64> {
        self.number(&labels::label(resource, labels::MEMORY))
    }

    /// Whether GFD has said nothing about this node's driver and GPUs.
    pub fn is_bare(&self) -> bool {
        self.driver_labels().is_none() && !self.labels.contains_key(labels::COMPUTE_MAJOR)
    }

    /// How the devices of a resource are shared, in words; `None` if they are not.
    pub fn sharing(&self, resource: &str) -> Option<String> {
        let by = self.label(&labels::label(resource, labels::SHARING));
        let replicas = self.number(&labels::label(resource, labels::REPLICAS)).known().filter(|number| *number > 1);
        match (by.filter(|by| labels::SHARED_BY.contains(by)), replicas) {
            (Some(by), Some(replicas)) => Some(format!("{by} x{replicas}")),
            (Some(by), None) => Some(by.to_owned()),
            (None, Some(replicas)) => Some(format!("x{replicas}")),
            (None, None) if resource.ends_with(labels::SHARED_SUFFIX) => Some("renamed".to_owned()),
            (None, None) => None,
        }
    }

    /// How many devices of a resource it has, in use or not.
    pub fn devices(&self, resource: &str) -> u64 {
        self.capacity.get(resource).copied().unwrap_or(0)
    }

    /// This node with as many devices of a resource as its labels tell of, where it offers none: its device plugin is not there, or
    /// not there yet.
    #[must_use]
    pub fn as_described(&self, resource: &str) -> NodeFacts {
        let mut node = self.clone();
        if self.devices(resource) == 0 {
            let number = |end: &str| self.number(&labels::label(resource, end)).known();
            // What is offered as other resources, slices of it say, is in the hands of no pod.
            let described = number(labels::COUNT).unwrap_or(0).saturating_mul(number(labels::REPLICAS).unwrap_or(1));
            node.capacity.insert(resource.to_owned(), u64::try_from(described).unwrap_or(0));
        }
        node
    }

    /// Labels about GPUs that can't be read, each with its value, and what else a person should know of this node.
    pub fn remarks(&self, resource: &str) -> Vec<String> {
        let mut remarks = Vec::new();
        let unreadable = [
            self.driver().malformed(),
            self.architecture().malformed(),
            self.memory(resource).malformed(),
            self.number(&labels::label(resource, labels::REPLICAS)).malformed(),
        ];
        remarks.extend(unreadable.into_iter().flatten().map(|label| format!("unreadable label: {label}")));
        if !self.ready {
            remarks.push("not ready".to_owned());
        }
        if self.cordoned {
            remarks.push("cordoned".to_owned());
        }
        remarks.extend(self.faults.iter().map(|fault| format!("fault: {fault}")));
        remarks.extend(self.label(labels::SENTINEL_STATE).map(|state| format!("NVSentinel: {state}")));
        let (all, healthy) = (self.devices(resource), self.allocatable.get(resource).copied().unwrap_or(0));
        if healthy < all {
            remarks.push(format!("{} of {all} devices can't be given to pods", all - healthy));
        }
        remarks
    }
}

impl<T> Reading<T> {
    fn malformed(self) -> Option<String> {
        match self {
            Reading::Malformed(label) => Some(label),
            Reading::Absent | Reading::Known(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
