//! Nodes and filters as tables for people: `trainyard nodes` and `trainyard why`.

use std::collections::BTreeMap;

use super::catalogue::Catalogue;
use super::funnel::memory_text;
use super::gate::{Gate, Step};
use super::refusal::Refusal;
use super::table::Table;
use super::{Request, candidates, gate_for, nearest, selector};
use crate::observe::NodeFacts;
use crate::observe::node::{Reading, labels};

/// What one filter says of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verdict {
    /// The filter.
    pub step: Step,
    /// Whether the node passes.
    pub passes: bool,
    /// What the node has there: `535.104.05`, `8`, `dedicated=a:NoSchedule`; may be empty.
    pub has: String,
}

/// Nodes that are alike in all that the job asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyRow {
    /// Their names, sorted.
    pub nodes: Vec<String>,
    /// What each filter says, in the order of [`Step::ALL`].
    pub verdicts: Vec<Verdict>,
    /// What else a person should know of them.
    pub remarks: Vec<String>,
}

impl WhyRow {
    /// Whether the job can ever run on them.
    pub fn fits(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.passes)
    }
}

/// Names of nodes that a row shows.
const NAMED: usize = 3;

/// What each filter of a job on GPUs says of each node, alike ones together, and those that fit first. With several runtimes
/// in question, of the one that [`place`](super::place) takes, or that comes nearest.
///
/// # Errors
/// [`Refusal`] where the spec names what there isn't, so that there is nothing to judge nodes by.
pub fn why(request: &Request<'_>, nodes: &[NodeFacts], catalogue: &Catalogue) -> Result<Vec<WhyRow>, Refusal> {
    let candidates = candidates(request, catalogue)?;
    let gate = gate_for(request, nearest(request, nodes, &candidates), nodes, &[]);
    let mut groups: BTreeMap<(Vec<Verdict>, Vec<String>), Vec<String>> = BTreeMap::new();
    for node in nodes {
        let verdicts = Step::ALL.map(|step| verdict(&gate, step, node)).to_vec();
        groups.entry((verdicts, node.remarks(gate.resource()))).or_default().push(node.name.clone());
    }
    let row = |((verdicts, remarks), mut nodes): (_, Vec<String>)| {
        nodes.sort();
        WhyRow { nodes, verdicts, remarks }
    };
    let mut rows: Vec<WhyRow> = groups.into_iter().map(row).collect();
    let passed = |row: &WhyRow| row.verdicts.iter().take_while(|verdict| verdict.passes).count();
    rows.sort_by_key(|row| (std::cmp::Reverse(passed(row)), row.nodes.first().cloned()));
    Ok(rows)
}

fn verdict(gate: &Gate<'_>, step: Step, node: &NodeFacts) -> Verdict {
    let resource = gate.resource();
    let has = match step {
        Step::Offered | Step::Size => node.devices(resource).to_string(),
        Step::Chosen | Step::Kept => String::new(),
        Step::Tolerated => {
            let taints = selector::closing(node, &gate.tolerations).map(selector::taint_text);
            taints.collect::<Vec<_>>().join(",")
        }
        Step::Product => product(node, resource),
        Step::Memory => memory(node, resource),
        Step::Unshared => node.sharing(resource).unwrap_or_default(),
        Step::Platform => node.platform(),
        Step::Driver => text(node.driver()),
        Step::Compute => text(node.architecture()),
    };
    Verdict { step, passes: gate.passes(step, node), has }
}

impl Table {
    /// The rows of [`why`] as text: what a node has, after `no:` where that does not do.
    pub fn of_why(rows: &[WhyRow]) -> Table {
        let column = |step: &Step| match step {
            Step::Offered => "GPUS",
            Step::Chosen => "CHOSEN",
            Step::Tolerated => "TAINTS",
            Step::Kept => "LEFT IN",
            Step::Product => "PRODUCT",
            Step::Memory => "MEMORY",
            Step::Unshared => "SHARING",
            Step::Platform => "PLATFORM",
            Step::Driver => "DRIVER",
            Step::Compute => "COMPUTE",
            Step::Size => "ENOUGH",
        };
        let mut head = vec!["NODES".to_owned(), "FIT".to_owned()];
        head.extend(Step::ALL.iter().map(|step| column(step).to_owned()));
        head.push("NOTES".to_owned());
        let cell = |verdict: &Verdict| match (verdict.passes, verdict.has.as_str(), verdict.step) {
            (true, _, Step::Chosen | Step::Kept | Step::Size) => "yes".to_owned(),
            (true, has, _) => has.to_owned(),
            (false, _, Step::Size) | (false, "", _) => "no".to_owned(),
            (false, has, _) => format!("no: {has}"),
        };
        let row = |row: &WhyRow| {
            let mut cells = vec![names(&row.nodes), if row.fits() { "yes" } else { "no" }.to_owned()];
            cells.extend(row.verdicts.iter().map(cell));
            cells.push(row.remarks.join(", "));
            cells
        };
        Table { head, rows: rows.iter().map(row).collect() }
    }
}

/// The nodes with GPUs, by their labels or by what they offer, sorted by name: what placement knows of each. A node that
/// offers several resources has a row for each.
pub fn nodes(nodes: &[NodeFacts]) -> Table {
    let head =
        ["NAME", "READY", "RESOURCE", "GPUS", "PRODUCT", "MEMORY", "DRIVER", "CUDA", "COMPUTE", "SHARING", "MIG"];
    let mut head: Vec<String> = head.map(str::to_owned).to_vec();
    head.push("NOTES".to_owned());
    let mut sorted: Vec<&NodeFacts> = nodes.iter().collect();
    sorted.sort_by(|one, other| one.name.cmp(&other.name));
    let rows = sorted.into_iter().flat_map(|node| {
        let offered = node.capacity.iter().filter(|(name, amount)| is_gpu(name) && **amount > 0);
        let mut resources: Vec<&str> = offered.map(|(name, _)| name.as_str()).collect();
        if resources.is_empty() && (node.labels.contains_key(labels::GPU_COUNT) || !node.is_bare()) {
            resources.push(labels::GPU);
        }
        resources.into_iter().map(|resource| row(node, resource)).collect::<Vec<_>>()
    });
    Table { head, rows: rows.collect() }
}

/// Whether an extended resource is a GPU or a part of one, by the names that device plugins give them.
fn is_gpu(resource: &str) -> bool {
    resource.starts_with("nvidia.com/") || resource.rsplit('/').next().is_some_and(|name| name.contains("gpu"))
}

fn row(node: &NodeFacts, resource: &str) -> Vec<String> {
    let ready = match (node.ready, node.cordoned) {
        (true, false) => "yes",
        (true, true) => "cordoned",
        (false, _) => "no",
    };
    vec![
        node.name.clone(),
        ready.to_owned(),
        resource.to_owned(),
        node.devices(resource).to_string(),
        product(node, resource),
        memory(node, resource),
        text(node.driver()),
        node.cuda().unwrap_or_default(),
        text(node.architecture()),
        node.sharing(resource).unwrap_or_default(),
        node.label(labels::MIG_STRATEGY).unwrap_or_default().to_owned(),
        node.remarks(resource).join(", "),
    ]
}

fn product(node: &NodeFacts, resource: &str) -> String {
    node.label(&labels::label(resource, labels::PRODUCT)).unwrap_or_default().to_owned()
}

fn memory(node: &NodeFacts, resource: &str) -> String {
    match node.memory(resource) {
        Reading::Known(mib) => memory_text(mib),
        Reading::Absent => String::new(),
        Reading::Malformed(_) => "?".to_owned(),
    }
}

fn text<T: ToString>(reading: Reading<T>) -> String {
    match reading {
        Reading::Known(value) => value.to_string(),
        Reading::Absent => String::new(),
        Reading::Malformed(_) => "?".to_owned(),
    }
}

fn names(nodes: &[String]) -> String {
    let shown = nodes.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(",");
    if nodes.len() > NAMED { format!("{shown} +{}", nodes.len() - NAMED) } else { shown }
}
