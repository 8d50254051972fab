//! How many nodes pass each filter, and the one sentence that says where they run out.

use std::collections::BTreeSet;
use std::iter;

use super::gate::{Gate, Step};
use super::refusal::{Refusal, Why};
use super::selector;
use crate::observe::NodeFacts;
use crate::observe::node::labels;

/// Most names that a sentence lists.
const NAMED: usize = 4;

/// The nodes that are left after each filter.
pub(super) struct Funnel<'a> {
    gate: &'a Gate<'a>,
    all: &'a [NodeFacts],
    /// After each step, in the order of [`Step::ALL`].
    left: Vec<Vec<&'a NodeFacts>>,
    gang: u64,
}

impl<'a> Funnel<'a> {
    pub(super) fn of(gate: &'a Gate<'a>, nodes: &'a [NodeFacts], gang: u32) -> Funnel<'a> {
        let mut left = Vec::with_capacity(Step::ALL.len());
        let mut rest: Vec<&NodeFacts> = nodes.iter().collect();
        for step in Step::ALL {
            rest.retain(|node| gate.passes(step, node));
            left.push(rest.clone());
        }
        Funnel { gate, all: nodes, left, gang: u64::from(gang) }
    }

    /// The nodes with the resource.
    pub(super) fn offered(&self) -> &[&'a NodeFacts] {
        self.left.first().map_or(&[], Vec::as_slice)
    }

    /// The nodes that pass every filter.
    pub(super) fn fitting(&self) -> &[&'a NodeFacts] {
        self.left.last().map_or(&[], Vec::as_slice)
    }

    /// Pods that have room on them at a time, were they empty.
    pub(super) fn room(&self) -> u64 {
        self.fitting().iter().map(|node| self.gate.pods_on(node)).fold(0, u64::saturating_add)
    }

    /// Whether all pods that must live at a time have room.
    pub(super) fn fits(&self) -> bool {
        self.room() >= self.gang
    }

    /// How far it came: the number of filters that some node passed, then the room.
    pub(super) fn reach(&self) -> (usize, u64) {
        (self.left.iter().take_while(|left| !left.is_empty()).count(), self.room())
    }

    /// Whether the runtime ruled out any node, so that another one might have had room.
    pub(super) fn runtime_matters(&self) -> bool {
        let left = |step: Step| self.left.get(step as usize).map_or(0, Vec::len);
        left(Step::Compute) < left(Step::Unshared)
    }

    /// "4 of 12 GPU nodes fit".
    pub(super) fn summary(&self) -> String {
        let (offered, fitting) = (self.offered().len(), self.fitting().len());
        let fit = if fitting == 1 { "fits" } else { "fit" };
        format!("{fitting} of {} {fit}", self.nodes(offered))
    }

    /// Why it doesn't fit: what reduced the nodes, with the counts that were left, down to the filter where they ran out.
    pub(super) fn refusal(&self) -> Refusal {
        let offered = self.offered().len();
        if offered == 0 {
            return self.nothing_offered();
        }
        let mut message = String::new();
        let mut before = offered;
        for (step, left) in Step::ALL.into_iter().zip(&self.left).skip(1) {
            let after = left.len();
            if after == before {
                continue;
            }
            let phrase = self.phrase(step);
            let count = if after == 0 { "none".to_owned() } else { after.to_string() };
            // "none of them has", "1 of them has", "2 of them have"
            let singular = after < 2;
            if message.is_empty() {
                let verb = if singular { phrase.it.0 } else { phrase.it.1 };
                message = format!("{}; {count} of {} {verb}", phrase.need, self.nodes(offered));
            } else {
                let verb = if singular { phrase.verb.0 } else { phrase.verb.1 };
                message.push_str(&format!(", {count} of them {verb} {}", phrase.rest));
            }
            if after == 0 {
                let (detail, hint) = self.where_it_ends(step);
                if !detail.is_empty() {
                    message.push_str(&format!(" ({detail})"));
                }
                return Refusal::new(Why::NoFittingNode, message, hint);
            }
            before = after;
        }
        let room = self.room();
        let each = format!("{} each", self.size());
        let pods = |count: u64| if count == 1 { format!("{count} pod") } else { format!("{count} pods") };
        let asked = format!("{} of {each} must run at a time, and there is room for {room}", pods(self.gang));
        let message = match message.as_str() {
            "" => format!("{asked} on {}", self.nodes(offered)),
            _ => format!("{message}; {asked}"),
        };
        let hint = format!("Set infrastructure.nodes to {room} or fewer, ask for fewer GPUs each, or add nodes");
        Refusal::new(Why::NoFittingNode, message, hint)
    }

    fn nothing_offered(&self) -> Refusal {
        let resource = self.gate.resource();
        let seen = match self.all.len() {
            0 => "there are no nodes at all".to_owned(),
            1 => "1 node was looked at".to_owned(),
            many => format!("{many} nodes were looked at"),
        };
        let vendor = resource.split_once('/').map_or("", |(vendor, _)| vendor);
        let vendor = format!("{vendor}/");
        let others: BTreeSet<&str> = self
            .all
            .iter()
            .flat_map(|node| &node.capacity)
            .filter(|(name, amount)| name.starts_with(&vendor) && **amount > 0)
            .map(|(name, _)| name.as_str())
            .collect();
        let silent = self.all.iter().filter(|node| node.labels.contains_key(labels::GPU_COUNT)).count();
        let (more, hint) = if !others.is_empty() {
            let hint = "Set infrastructure.gpu.resourceName to one that there is";
            (format!("; there is {}", some(others)), hint)
        } else if silent > 0 {
            let more = format!("; {silent} of them with labels of GPUs and none to give");
            (more, "Look after the device plugin on those nodes")
        } else {
            (
                String::new(),
                "Add nodes with GPUs and NVIDIA's device plugin, or set infrastructure.device to Auto or Cpu",
            )
        };
        Refusal::new(Why::NoFittingNode, format!("no node has {resource} ({seen}{more})"), hint)
    }

    /// How the sentence speaks of a filter.
    fn phrase(&self, step: Step) -> Phrase {
        let (has, is) = (("has", "have"), ("is", "are"));
        let per_pod = self.gate.per_pod();
        let runtime = self.gate.runtime.map_or("", |runtime| runtime.name.as_str());
        let phrase = |need: String,
                      it: (&'static str, &'static str),
                      verb: (&'static str, &'static str),
                      rest: String| { Phrase { need, it, verb, rest } };
        match step {
            Step::Offered => phrase("GPUs are needed".into(), ("has them", "have them"), has, "GPUs".into()),
            Step::Chosen => {
                let need = "the job's nodeSelector and affinity choose its nodes".into();
                phrase(need, ("is chosen", "are chosen"), is, "chosen by nodeSelector and affinity".into())
            }
            Step::Tolerated => {
                let need = "the job must tolerate its nodes' taints".into();
                let (it, rest) =
                    (("is open to it", "are open to it"), "without a taint that the job does not tolerate");
                phrase(need, it, is, rest.into())
            }
            Step::Kept => {
                let need = "nodes where an attempt met a fault are left out".into();
                phrase(need, ("is left", "are left"), is, "left after those where an attempt met a fault".into())
            }
            Step::Product => {
                let products = some(self.gate.infrastructure.gpu.products.iter().map(String::as_str));
                phrase(format!("the job wants {products}"), ("has it", "have it"), has, products)
            }
            Step::Memory => {
                let wanted = self.gate.infrastructure.gpu.min_memory.as_ref().map_or("", |memory| &memory.0);
                let need = format!("the job wants {wanted} of memory on each GPU");
                phrase(need, ("has it", "have it"), has, format!("{wanted} of memory on each GPU"))
            }
            Step::Unshared => {
                let need = format!("{per_pod} GPUs of a pod must not be shared (time-slicing, MPS)");
                phrase(need, ("has such", "have such"), has, "GPUs that are not shared (time-slicing, MPS)".into())
            }
            Step::Platform => {
                let platforms = platforms(self.gate.architectures().unwrap_or_default());
                phrase(format!("runtime {runtime} is for {platforms}"), ("is such", "are such"), is, platforms)
            }
            Step::Driver => {
                let driver = self.gate.cuda().map(|cuda| cuda.driver.to_string()).unwrap_or_default();
                let need = format!("runtime {runtime} needs driver {driver} or newer");
                let rest = format!("driver {driver} or newer, which runtime {runtime} needs");
                phrase(need, ("has it", "have it"), has, rest)
            }
            Step::Compute => {
                let built = self.gate.cuda().map(|cuda| cuda.built.iter().map(ToString::to_string).collect::<Vec<_>>());
                let built = built.unwrap_or_default().join(", ");
                let need = format!("runtime {runtime} has code for compute capability {built}");
                let rest = format!("GPUs that runtime {runtime} has code for (compute capability {built})");
                phrase(need, ("has such GPUs", "have such GPUs"), has, rest)
            }
            Step::Size => {
                let size = self.size();
                phrase(format!("each pod needs {size}"), ("has them", "have them"), has, size)
            }
        }
    }

    /// What there was instead where nodes ran out, and what to do.
    fn where_it_ends(&self, step: Step) -> (String, String) {
        let at = Step::ALL.iter().position(|one| *one == step).unwrap_or(0);
        let last: &[&NodeFacts] = at.checked_sub(1).and_then(|before| self.left.get(before)).map_or(&[], Vec::as_slice);
        let resource = self.gate.resource();
        let values = |value: &dyn Fn(&NodeFacts) -> Option<String>| -> BTreeSet<String> {
            last.iter().filter_map(|node| value(node)).collect()
        };
        let listed = |values: BTreeSet<String>, none: &str| match values.is_empty() {
            true => none.to_owned(),
            false => format!("there is {}", some(values.iter().map(String::as_str))),
        };
        match step {
            Step::Offered | Step::Chosen => {
                (String::new(), "Correct nodeSelector and affinity in infrastructure.pod".to_owned())
            }
            Step::Tolerated => {
                let taints = last
                    .iter()
                    .flat_map(|node| selector::closing(node, &self.gate.tolerations).map(selector::taint_text))
                    .collect();
                (listed(taints, ""), "Add a toleration to infrastructure.pod.tolerations".to_owned())
            }
            Step::Kept => (String::new(), "They are tried again after a while; repair them, or add nodes".to_owned()),
            Step::Product => {
                let labels = self.gate.product_labels();
                let product = |node: &NodeFacts| labels.iter().find_map(|label| node.label(label)).map(str::to_owned);
                let none = format!("no label {}", labels.first().map_or("", String::as_str));
                (listed(values(&product), &none), "Correct infrastructure.gpu.products".to_owned())
            }
            Step::Memory => {
                let largest = last.iter().filter_map(|node| node.memory(resource).known()).max();
                let none = format!("no readable label {}", labels::label(resource, labels::MEMORY));
                let detail = largest.map_or(none, |mib| format!("the largest has {}", memory_text(mib)));
                (detail, "Ask for less in infrastructure.gpu.minMemory, or leave it out".to_owned())
            }
            Step::Unshared => {
                let sharing = values(&|node| node.sharing(resource));
                let hint = "Set infrastructure.gpusPerNode to 1: a shared GPU gives no more by being taken twice";
                (listed(sharing, "their labels can't be read"), hint.to_owned())
            }
            Step::Platform => {
                let there = values(&|node| Some(node.platform()).filter(|platform| !platform.is_empty()));
                let hint = "Add such nodes, or have a runtime for these added to the catalogue";
                (listed(there, "no label kubernetes.io/arch or kubernetes.io/os"), hint.to_owned())
            }
            Step::Driver => {
                let newest = last.iter().filter_map(|node| node.driver().known()).max();
                let none = "no readable driver label".to_owned();
                let detail = newest.map_or(none, |driver| format!("the newest is {driver}"));
                (detail, "Upgrade the nodes' driver, or take a runtime with an older CUDA".to_owned())
            }
            Step::Compute => {
                let there = values(&|node| node.architecture().known().map(|one| one.to_string()));
                (listed(there, "no readable label"), "Take a runtime that has code for these GPUs".to_owned())
            }
            Step::Size => {
                let most = last.iter().map(|node| node.devices(resource)).max().unwrap_or(0);
                if most < self.gate.per_pod() {
                    let hint = format!("Set infrastructure.gpusPerNode to {most} or fewer, and nodes to more");
                    return (format!("the largest has {most}"), hint);
                }
                (
                    largest(self.gate, last),
                    "Ask for less in infrastructure.pod.resources, or add larger nodes".to_owned(),
                )
            }
        }
    }

    /// "8 GPUs", "8 GPUs, 96 CPUs and 2Ti of memory": what a pod takes.
    fn size(&self) -> String {
        let per_pod = self.gate.per_pod();
        let devices = format!("{per_pod} {}", self.devices(per_pod));
        all_of(&iter::once(devices).chain(self.gate.sizes()).collect::<Vec<_>>())
    }

    /// "12 GPU nodes", or "12 nodes with nvidia.com/mig-1g.5gb".
    fn nodes(&self, count: usize) -> String {
        let nodes = if count == 1 { "node" } else { "nodes" };
        match self.gate.resource() {
            labels::GPU => format!("{count} GPU {nodes}"),
            resource => format!("{count} {nodes} with {resource}"),
        }
    }

    /// "GPUs", or the resource's name.
    fn devices(&self, count: u64) -> &'a str {
        match (self.gate.resource(), count) {
            (labels::GPU, 1) => "GPU",
            (labels::GPU, _) => "GPUs",
            (resource, _) => resource,
        }
    }
}

/// "8 GPUs, 96 CPUs and 2Ti of memory".
pub(super) fn all_of(sizes: &[String]) -> String {
    match sizes {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => sizes.concat(),
    }
}

/// What nodes that have enough of the rest have of CPUs and memory.
pub(super) fn largest(gate: &Gate<'_>, nodes: &[&NodeFacts]) -> String {
    let most = |of: fn(&NodeFacts) -> Option<u64>| nodes.iter().filter_map(|node| of(node)).max();
    let cpu = most(|node| node.cpu).filter(|cpu| *cpu < gate.asked_cpu());
    let memory = most(|node| node.memory_bytes).filter(|bytes| *bytes < gate.asked_memory());
    let cpu = cpu.map(|cpu| format!("the most CPUs of one are {}", cpu / 1000));
    let memory = memory.map(|bytes| {
        format!("the most memory of one is {}", memory_text(i64::try_from(bytes >> 20).unwrap_or(i64::MAX)))
    });
    match (cpu, memory) {
        (Some(cpu), Some(memory)) => format!("{cpu}, {memory}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "no node has all of it".to_owned(),
    }
}

/// How the sentence speaks of a filter: "{need}; 4 of 12 GPU nodes {it}" where it is the first to count, then
/// "4 of them {verb} {rest}". Verbs are singular and plural.
struct Phrase {
    need: String,
    it: (&'static str, &'static str),
    verb: (&'static str, &'static str),
    rest: String,
}

/// A few of these with commas, and how many more there are.
pub(super) fn some<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let all: Vec<&str> = texts.into_iter().collect();
    let shown = all.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if all.len() > NAMED { format!("{shown} and {} more", all.len() - NAMED) } else { shown }
}

/// "linux/amd64 or linux/arm64".
pub(super) fn platforms(architectures: &[String]) -> String {
    let platforms = architectures.iter().map(|architecture| format!("{}/{architecture}", labels::LINUX));
    platforms.collect::<Vec<_>>().join(" or ")
}

/// "2 nodes are linux/arm64, for which the image of runtime cpu is not", of nodes that can't run it; nothing if there are none.
pub(super) fn misfits<'n>(gate: &Gate<'_>, nodes: impl IntoIterator<Item = &'n NodeFacts>) -> Option<String> {
    let others: Vec<String> =
        nodes.into_iter().filter(|node| !gate.passes(Step::Platform, node)).map(NodeFacts::platform).collect();
    let kinds: BTreeSet<&str> = others.iter().map(String::as_str).filter(|platform| !platform.is_empty()).collect();
    let kinds = if kinds.is_empty() { "of a kind that they do not tell".to_owned() } else { some(kinds) };
    let nodes = match others.len() {
        0 => return None,
        1 => "1 node is".to_owned(),
        many => format!("{many} nodes are"),
    };
    let runtime = gate.runtime.map_or("", |runtime| runtime.name.as_str());
    Some(format!("{nodes} {kinds}, which the image of runtime {runtime} is not for"))
}

/// MiB as a person reads them: `79.6Gi`, rounded down, so that what is written here can be asked for.
pub(super) fn memory_text(mib: i64) -> String {
    match (mib / 1024, mib % 1024 * 10 / 1024) {
        (0, _) => format!("{mib}Mi"),
        (whole, 0) => format!("{whole}Gi"),
        (whole, tenth) => format!("{whole}.{tenth}Gi"),
    }
}
