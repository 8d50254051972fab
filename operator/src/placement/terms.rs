//! The gate as required node affinity, so that the scheduler keeps it true for as long as the pod waits.
//!
//! Terms are alternatives, and what stands in a term must hold together; so each filter that has alternatives multiplies
//! them. Versions are compared part by part with `Gt`, whose bound is excluded and which reads labels as integers. That one
//! part is larger makes the later ones irrelevant, so three terms say "580.65.06 or newer":
//! major > 580, or major > 579 and minor > 65, or major > 579 and minor > 64 and revision > 5.

use crds::open::Open;
use k8s_openapi::api::core::v1::{Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use super::catalogue::Cuda;
use super::gate::{Gate, generations};
use crate::observe::node::labels::{self, DRIVER, DriverLabels, OLD_DRIVER};

/// Most terms that a pod gets; a job whose own terms make more of them is refused. The scheduler tries them one by one on
/// each node, and the pod is stored with all of them.
pub const MOST_TERMS: usize = 512;

/// More terms than a pod can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    /// Terms of the job's own affinity.
    pub(super) own: usize,
    /// Terms that each of them would become.
    pub(super) gate: usize,
}

/// Alternatives, each of requirements that must hold together.
type Alternatives = Vec<Vec<NodeSelectorRequirement>>;

impl Gate<'_> {
    /// The job's affinity with the gate in it: each of its own terms with each of the gate's. `None` if neither asks anything.
    pub(super) fn affinity(&self) -> Result<Option<Affinity>, TooMany> {
        self.affinity_of(&self.alternatives())
    }

    /// The affinity of a pod that computes on CPUs: the job's own, on nodes that the image is for, without those left out.
    pub(super) fn cpu_affinity(&self) -> Result<Option<Affinity>, TooMany> {
        self.affinity_of(&[self.platform()])
    }

    /// What the image asks of a node's labels.
    fn platform(&self) -> Vec<NodeSelectorRequirement> {
        let Some(architectures) = self.architectures() else { return Vec::new() };
        let architecture = requirement(labels::ARCHITECTURE, "In", architectures);
        vec![requirement(labels::SYSTEM, "In", &[labels::LINUX]), architecture]
    }

    fn affinity_of(&self, gate: &[Vec<NodeSelectorRequirement>]) -> Result<Option<Affinity>, TooMany> {
        let given = self.infrastructure.pod.affinity.as_ref().and_then(Open::get).cloned();
        let fields: Vec<NodeSelectorRequirement> =
            self.excluded.iter().map(|name| requirement("metadata.name", "NotIn", &[*name])).collect();
        if fields.is_empty() && gate.iter().all(Vec::is_empty) {
            return Ok(given);
        }
        let everywhere = [NodeSelectorTerm::default()];
        let own = self.own_terms().unwrap_or(&everywhere);
        if own.len().saturating_mul(gate.len()) > MOST_TERMS {
            return Err(TooMany { own: own.len(), gate: gate.len() });
        }
        let asks = |term: &&NodeSelectorTerm| {
            let some = |list: &Option<Vec<NodeSelectorRequirement>>| list.as_ref().is_some_and(|list| !list.is_empty());
            // An empty term of the job's own matches nothing, and would match everything with the gate in it.
            self.own_terms().is_none() || some(&term.match_expressions) || some(&term.match_fields)
        };
        let joined = own.iter().filter(asks).flat_map(|term| gate.iter().map(|ours| joined(term, ours, &fields)));
        let terms: Vec<NodeSelectorTerm> = joined.collect();
        if terms.is_empty() {
            return Ok(given);
        }
        let mut affinity = given.unwrap_or_default();
        let required = NodeSelector { node_selector_terms: terms };
        affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution =
            Some(required);
        Ok(Some(affinity))
    }

    /// What the gate asks of a node's labels.
    fn alternatives(&self) -> Alternatives {
        let resource = self.resource();
        let mut all: Alternatives = vec![self.platform()];
        if let Some(cuda) = self.cuda() {
            let mut known = crossed(&driver(cuda), &compute(cuda));
            if self.bare_will_do {
                known.push([DRIVER.major, OLD_DRIVER.major, labels::COMPUTE_MAJOR].map(absent).to_vec());
            }
            all = crossed(&all, &known);
        }
        if self.per_pod() >= 2 {
            let unshared = requirement(&labels::label(resource, labels::SHARING), "NotIn", &labels::SHARED_BY);
            let replicas = labels::label(resource, labels::REPLICAS);
            all = crossed(&all, &[vec![unshared]]);
            all = crossed(&all, &[vec![absent(&replicas)], vec![requirement(&replicas, "Lt", &["2"])]]);
        }
        let products = &self.infrastructure.gpu.products;
        if !products.is_empty() {
            let labels = self.product_labels();
            let named: Alternatives = labels.iter().map(|label| vec![requirement(label, "In", products)]).collect();
            all = crossed(&all, &named);
        }
        if let Some(memory) = self.memory() {
            all = crossed(&all, &[vec_of([more_than(&labels::label(resource, labels::MEMORY), memory - 1)])]);
        }
        all
    }
}

/// The driver is new enough by its new labels, or by the old ones where the node has no new ones.
fn driver(cuda: &Cuda) -> Alternatives {
    let least = cuda.driver;
    let (major, minor, revision) = (i64::from(least.major), i64::from(least.minor), i64::from(least.revision));
    let by = |names: DriverLabels| -> Alternatives {
        let this_branch = || more_than(names.major, major - 1);
        let this_release = [this_branch(), more_than(names.minor, minor - 1), more_than(names.revision, revision - 1)];
        let later_release = [this_branch(), more_than(names.minor, minor)];
        let mut all: Alternatives = vec![vec_of([more_than(names.major, major)]), vec_of(this_release)];
        if revision > 0 {
            // Without a revision to reach, the one above says this too.
            all.push(vec_of(later_release));
        }
        all
    };
    let mut all = by(DRIVER);
    all.extend(by(OLD_DRIVER).into_iter().map(|mut old| {
        old.insert(0, absent(DRIVER.major));
        old
    }));
    all
}

/// The runtime has code for the node's GPUs: their generation, from the first member on that there is code for.
fn compute(cuda: &Cuda) -> Alternatives {
    let (whole, later): (Vec<_>, Vec<_>) = generations(cuda).into_iter().partition(|(_, minor)| *minor == 0);
    let mut all = Vec::new();
    if !whole.is_empty() {
        let majors: Vec<String> = whole.iter().map(|(major, _)| major.to_string()).collect();
        all.push(vec![requirement(labels::COMPUTE_MAJOR, "In", &majors)]);
    }
    all.extend(later.into_iter().map(|(major, minor)| {
        let generation = requirement(labels::COMPUTE_MAJOR, "In", &[major.to_string()]);
        vec_of([Some(generation), more_than(labels::COMPUTE_MINOR, i64::from(minor) - 1)])
    }));
    all
}

fn joined(
    own: &NodeSelectorTerm,
    ours: &[NodeSelectorRequirement],
    fields: &[NodeSelectorRequirement],
) -> NodeSelectorTerm {
    let with = |own: &Option<Vec<NodeSelectorRequirement>>, ours: &[NodeSelectorRequirement]| {
        let all: Vec<NodeSelectorRequirement> = own.iter().flatten().chain(ours).cloned().collect();
        Some(all).filter(|all| !all.is_empty())
    };
    NodeSelectorTerm {
        match_expressions: with(&own.match_expressions, ours),
        match_fields: with(&own.match_fields, fields),
    }
}

fn crossed(one: &[Vec<NodeSelectorRequirement>], other: &[Vec<NodeSelectorRequirement>]) -> Alternatives {
    one.iter().flat_map(|left| other.iter().map(|right| left.iter().chain(right).cloned().collect())).collect()
}

fn requirement<S: AsRef<str>>(key: &str, operator: &str, values: &[S]) -> NodeSelectorRequirement {
    let values: Vec<String> = values.iter().map(|value| value.as_ref().to_owned()).collect();
    NodeSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values: Some(values) }
}

fn absent(key: &str) -> NodeSelectorRequirement {
    NodeSelectorRequirement { key: key.to_owned(), operator: "DoesNotExist".to_owned(), values: None }
}

/// That a label is an integer above the bound. Below zero there is nothing to ask: versions and sizes aren't negative, and
/// the scheduler takes no bound that is (`-1` is no label value).
fn more_than(key: &str, bound: i64) -> Option<NodeSelectorRequirement> {
    (bound >= 0).then(|| requirement(key, "Gt", &[bound.to_string()]))
}

fn vec_of<const N: usize>(requirements: [Option<NodeSelectorRequirement>; N]) -> Vec<NodeSelectorRequirement> {
    requirements.into_iter().flatten().collect()
}
