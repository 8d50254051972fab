//! Where a job may run: device, runtime, and a gate that the scheduler keeps. Pure, and the same for the operator and for
//! `trainyard why`.
//!
//! ```text
//!  Request, NodeFacts…, Catalogue ─► place ─► Placed: device, runtime, image, affinity, a reason
//!                                      │  └─► Refusal: where the nodes ran out, in a sentence with counts
//!                                      ├ gate      what a job asks of a node, filter by filter
//!                                      ├ selector  nodeSelector, affinity and taints as the scheduler judges them
//!                                      ├ terms     the gate as required node affinity
//!                                      ├ funnel    how many nodes pass each filter
//!                                      └ cpus      all of it without a GPU
//!  explain    the same filters as a table for people
//! ```
//!
//! Nodes are counted by what they have, not by what is free now: a job waits for what is busy, and is refused what there can
//! never be. So a node that is cordoned or not ready counts; the reason says so. A node that reports a GPU at fault is
//! avoided as long as the others suffice.

mod catalogue;
mod cpus;
mod explain;
mod funnel;
mod gate;
mod refusal;
mod selector;
mod table;
mod terms;
#[cfg(test)]
mod tests;

pub use catalogue::{Catalogue, CatalogueError, Cuda, Runtime};
pub use explain::{Verdict, WhyRow, nodes, why};
pub use gate::Step;
pub use refusal::{Refusal, Why};
pub use table::Table;
pub use terms::MOST_TERMS;

use std::borrow::Cow;

use crds::infrastructure::{Device, Infrastructure};
use crds::status::{NODES_KEPT, Placement, bounded};
use k8s_openapi::api::core::v1::{Affinity, Toleration};
use serde_json::json;

use crate::build::fingerprint;
use crate::observe::NodeFacts;
use crate::observe::node::labels;
use funnel::Funnel;
use gate::Gate;

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Where it is wished to run.
    pub infrastructure: &'a Infrastructure,
    /// Nodes that are left out.
    pub excluded: &'a [String],
    /// Those of them that are left out for good; the others are tried again after a while.
    pub unfit: &'a [String],
    /// Whether an attempt was on GPUs, and nothing was wrong with them: what a node had of them before it started anew it will have
    /// again, once its device plugin is back.
    pub had_gpus: bool,
    /// Pods in all, for the number of GPUs.
    pub pods: u32,
    /// Pods that must live at the same time: all of a TrainingJob, one of a ScoringJob or a ModelEndpoint.
    pub gang: u32,
    /// Whether an autoscaler adds the nodes that waiting pods need. Then no pool is too small: an autoscaler acts on pods that
    /// wait, and on nothing else.
    pub autoscaled: bool,
}

impl<'a> Request<'a> {
    /// A job of `infrastructure.nodes` pods that must all live at the same time.
    pub fn together(infrastructure: &'a Infrastructure, excluded: &'a [String]) -> Request<'a> {
        let pods = infrastructure.nodes;
        Request { gang: pods, ..Request::apart(infrastructure, excluded, pods) }
    }

    /// Pods that work on their own, one at a time if need be.
    pub fn apart(infrastructure: &'a Infrastructure, excluded: &'a [String], pods: u32) -> Request<'a> {
        let (unfit, had_gpus, autoscaled) = (excluded, false, false);
        Request { infrastructure, excluded, unfit, had_gpus, pods, gang: 1, autoscaled }
    }
}

/// Where a job may run, and what its pods need for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// What computes: Gpu or Cpu, never Auto.
    pub device: Device,
    /// Name of the runtime; `None` for an image of the user's own without one.
    pub runtime: Option<String>,
    /// The image of the pods.
    pub image: String,
    /// The extended resource, and how many each pod takes; `None` on CPUs.
    pub resource: Option<(String, u32)>,
    /// GPUs of all pods; 0 on CPUs.
    pub gpus: u32,
    /// The affinity of the pods: the job's own with the gate in it.
    pub affinity: Option<Affinity>,
    /// What the pods tolerate: what the job says, and the taints that keep pods without GPUs away from GPUs.
    pub tolerations: Vec<Toleration>,
    /// Why there: a sentence.
    pub reason: String,
}

impl Placed {
    /// A place on any node, for tests of what is made of it.
    #[cfg(test)]
    pub(crate) fn on_cpus() -> Placed {
        Placed {
            device: Device::Cpu,
            runtime: None,
            image: String::new(),
            resource: None,
            gpus: 0,
            affinity: None,
            tolerations: Vec::new(),
            reason: String::new(),
        }
    }

    /// The fingerprint of all that a pod gets of it, so that pods that were made for another place are known.
    pub fn fingerprint(&self) -> u64 {
        let Placed { device, runtime, image, resource, gpus: _, affinity, tolerations, reason: _ } = self;
        fingerprint::number(&json!([device, runtime, image, resource, affinity, tolerations]))
    }

    /// What the status says of it.
    pub fn status(&self, node: Option<String>) -> Placement {
        let (device, gpus, runtime) = (self.device, self.gpus, self.runtime.clone());
        Placement { device, gpus, runtime, node, reason: bounded(&self.reason) }
    }
}

/// Decides where a job may run. `nodes` are all nodes of the cluster, `None` if the operator may not read them.
///
/// GPUs: the runtime is the one that the job names; else none, if the job brings its own image; else **the newest CUDA of
/// the catalogue for which the nodes that fit have room for the whole gang**, several pods to a node where it has the GPUs.
/// First this is tried without the nodes that report a fault, then with them.
///
/// With an autoscaler, `device: Gpu` is never refused for want of nodes. Its pods then check driver and GPU themselves.
///
/// `device: Auto` takes GPUs if that succeeds, else CPUs; CPUs too where the nodes can't be read, since pods would wait for
/// GPUs for ever if there are none. It waits for GPUs that are away for a while only, since it would not come back to them.
///
/// # Errors
/// [`Refusal`]: GPUs, or CPUs and memory, are asked for that there can never be, or not now; every node that CPUs could be used
/// on is left out; or the spec names what there isn't.
pub fn place(request: &Request<'_>, nodes: Option<&[NodeFacts]>, catalogue: &Catalogue) -> Result<Placed, Refusal> {
    match request.infrastructure.device {
        Device::Gpu => on_gpus(request, nodes, catalogue),
        Device::Cpu => cpus::place(request, nodes, catalogue, "asked for by spec.infrastructure.device"),
        Device::Auto => {
            let Some(known) = nodes else {
                let reason = "the operator may not read nodes, so it looks for no GPUs: set infrastructure.device to Gpu for them";
                return cpus::place(request, nodes, catalogue, reason);
            };
            let falls_back = |refusal: &Refusal| {
                let has_none = refusal.why == Why::NoFittingNode && !come_back(request, known, catalogue);
                has_none || names_cpus(request, catalogue)
            };
            match on_gpus(request, nodes, catalogue) {
                Err(refusal) if falls_back(&refusal) => {
                    cpus::place(request, nodes, catalogue, &format!("no GPUs for this job: {}", refusal.message))
                }
                decided => decided,
            }
        }
    }
}

/// Whether GPUs that there is no place on now come back by themselves.
fn come_back(request: &Request<'_>, nodes: &[NodeFacts], catalogue: &Catalogue) -> bool {
    let resource = &request.infrastructure.gpu.resource_name;
    if !request.had_gpus && request.excluded == request.unfit {
        return false;
    }
    let nodes: Cow<'_, [NodeFacts]> = match request.had_gpus {
        true => nodes.iter().map(|node| node.as_described(resource)).collect(),
        false => nodes.into(),
    };
    let later = Request { excluded: request.unfit, ..*request };
    on_gpus(&later, Some(&nodes), catalogue).is_ok()
}

/// Whether the job names a runtime for CPUs.
fn names_cpus(request: &Request<'_>, catalogue: &Catalogue) -> bool {
    let named = request.infrastructure.runtime.as_ref().and_then(|name| catalogue.named(name));
    named.is_some_and(|runtime| runtime.cuda.is_none())
}

fn on_gpus(request: &Request<'_>, nodes: Option<&[NodeFacts]>, catalogue: &Catalogue) -> Result<Placed, Refusal> {
    let candidates = candidates(request, catalogue)?;
    let Some(nodes) = nodes else {
        let gate = gate(request, candidates.first().copied().flatten(), &[], true);
        return placed(request, &gate, None);
    };
    let faulty: Vec<&str> =
        nodes.iter().filter(|node| !node.faults.is_empty()).map(|node| node.name.as_str()).collect();
    let avoided: Vec<&str> = faulty.into_iter().take(NODES_KEPT).collect();
    for avoided in [avoided.as_slice(), &[]] {
        for runtime in &candidates {
            let gate = gate_for(request, *runtime, nodes, avoided);
            let funnel = Funnel::of(&gate, nodes, request.gang);
            if funnel.fits() {
                return placed(request, &gate, Some(&funnel));
            }
        }
    }
    let gate = gate_for(request, nearest(request, nodes, &candidates), nodes, &[]);
    let funnel = Funnel::of(&gate, nodes, request.gang);
    let mut refusal = funnel.refusal();
    if let (Some(runtime), true) = (gate.runtime, candidates.len() > 1 && funnel.runtime_matters()) {
        let others = format!("no runtime of the catalogue has room, {} the nearest: ", runtime.name);
        refusal.message.insert_str(0, &others);
    }
    if request.autoscaled && request.infrastructure.device == Device::Gpu {
        // A node that is yet to come has no labels of GPU Feature Discovery for an autoscaler to see.
        let gate = self::gate(request, candidates.first().copied().flatten(), &[], true);
        let placed = placed(request, &gate, None)?;
        let reason = format!("pods wait for an autoscaler to add nodes: {}", refusal.message);
        return Ok(Placed { reason: bounded(&reason), ..placed });
    }
    Err(refusal)
}

/// The runtime whose nodes last longest; of equals, the newest.
fn nearest<'a>(request: &Request<'a>, nodes: &[NodeFacts], candidates: &[Option<&'a Runtime>]) -> Option<&'a Runtime> {
    let reach =
        |runtime: Option<&'a Runtime>| Funnel::of(&gate_for(request, runtime, nodes, &[]), nodes, request.gang).reach();
    let newest_last = candidates.iter().rev();
    newest_last.max_by_key(|runtime| reach(**runtime)).copied().flatten()
}

/// The runtimes that come into question, the best one first; `None` is an image whose CUDA nobody knows.
fn candidates<'a>(request: &Request<'_>, catalogue: &'a Catalogue) -> Result<Vec<Option<&'a Runtime>>, Refusal> {
    let with_cuda = || catalogue.runtimes().iter().filter(|runtime| runtime.cuda.is_some());
    if let Some(runtime) = named(request, catalogue)? {
        return match runtime.cuda {
            Some(_) => Ok(vec![Some(runtime)]),
            None => {
                let message = format!("runtime {} is for CPUs", runtime.name);
                let gpus = funnel::some(with_cuda().map(|runtime| runtime.name.as_str()));
                let hint = format!("Set infrastructure.runtime to one for GPUs ({gpus}), or device to Cpu");
                Err(Refusal::new(Why::BadSpec, message, hint))
            }
        };
    }
    if request.infrastructure.image.is_some() {
        return Ok(vec![None]);
    }
    let all: Vec<Option<&Runtime>> = with_cuda().map(Some).collect();
    match all.is_empty() {
        false => Ok(all),
        true => {
            let hint = "Set infrastructure.device to Auto or Cpu, or have a runtime with CUDA added to the catalogue";
            Err(Refusal::new(Why::NoFittingNode, "the operator's catalogue has no runtime for GPUs", hint))
        }
    }
}

fn named<'a>(request: &Request<'_>, catalogue: &'a Catalogue) -> Result<Option<&'a Runtime>, Refusal> {
    let Some(name) = &request.infrastructure.runtime else { return Ok(None) };
    let found = catalogue.named(name);
    found.map(Some).ok_or_else(|| {
        let known = catalogue.runtimes().iter().map(|runtime| runtime.name.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!("there is no runtime {name} in the operator's catalogue");
        Refusal::new(Why::BadSpec, message, format!("Set infrastructure.runtime to one that there is: {known}"))
    })
}

/// The gate over these nodes. Where none with the resource that the job may go to says anything about its driver and GPUs, none
/// needs to, whatever others say: the pod's own preflight decides.
fn gate_for<'a>(
    request: &Request<'a>,
    runtime: Option<&'a Runtime>,
    nodes: &[NodeFacts],
    avoided: &[&'a str],
) -> Gate<'a> {
    let resource = &request.infrastructure.gpu.resource_name;
    let gate = gate(request, runtime, avoided, false);
    let mut offering = nodes.iter().filter(|node| node.devices(resource) > 0 && gate.passes(Step::Chosen, node));
    let bare_will_do = offering.all(NodeFacts::is_bare);
    Gate { bare_will_do, ..gate }
}

fn gate<'a>(request: &Request<'a>, runtime: Option<&'a Runtime>, avoided: &[&'a str], bare_will_do: bool) -> Gate<'a> {
    let infrastructure = request.infrastructure;
    let resource = &infrastructure.gpu.resource_name;
    let own = resource.strip_suffix(labels::SHARED_SUFFIX).unwrap_or(resource);
    let mut tolerations = infrastructure.pod.tolerations.clone();
    let whole = own.starts_with("nvidia.com/").then_some(labels::GPU);
    for key in [Some(own), whole].into_iter().flatten() {
        // What Kubernetes' admission plugin ExtendedResourceToleration adds where it is on.
        let ours = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&ours) {
            tolerations.push(ours);
        }
    }
    let excluded = excluded(request, avoided);
    Gate { infrastructure, runtime, excluded, tolerations, bare_will_do }
}

fn excluded<'a>(request: &Request<'a>, avoided: &[&'a str]) -> Vec<&'a str> {
    let mut excluded: Vec<&str> = request.excluded.iter().map(String::as_str).chain(avoided.iter().copied()).collect();
    excluded.sort_unstable();
    excluded.dedup();
    excluded
}

fn placed(request: &Request<'_>, gate: &Gate<'_>, funnel: Option<&Funnel<'_>>) -> Result<Placed, Refusal> {
    let affinity = gate.affinity().map_err(|many| too_many(&many))?;
    let each = request.infrastructure.gpus_per_node;
    let image = request.infrastructure.image.clone().or_else(|| gate.runtime.map(|runtime| runtime.image.clone()));
    Ok(Placed {
        device: Device::Gpu,
        runtime: gate.runtime.map(|runtime| runtime.name.clone()),
        image: image.unwrap_or_default(),
        resource: Some((gate.resource().to_owned(), each)),
        gpus: each.saturating_mul(request.pods),
        affinity,
        tolerations: gate.tolerations.clone(),
        reason: bounded(&reason(gate, funnel)),
    })
}

fn too_many(many: &terms::TooMany) -> Refusal {
    let message = format!(
        "the job's node affinity has {} terms, each of which becomes {} with what its GPUs need; a pod gets {MOST_TERMS} at most",
        many.own, many.gate
    );
    let hint = "Write it with fewer nodeSelectorTerms: In takes several values, and nodeSelector holds for all of them";
    Refusal::new(Why::BadSpec, message, hint)
}

/// Why GPUs, why this runtime, and what a person should know of the nodes.
fn reason(gate: &Gate<'_>, funnel: Option<&Funnel<'_>>) -> String {
    let mut parts = vec![match (gate.runtime, gate.cuda()) {
        (Some(runtime), Some(cuda)) => format!("runtime {} needs driver {} or newer", runtime.name, cuda.driver),
        _ => "the image's CUDA is not known, so that neither driver nor GPU generation is checked; naming a runtime would"
            .to_owned(),
    }];
    let Some(funnel) = funnel else {
        parts.push("nodes are not read, the pods check driver and GPU themselves before they start".to_owned());
        return parts.join("; ");
    };
    parts.push(funnel.summary());
    let fitting = funnel.fitting();
    if gate.cuda().is_some() && fitting.iter().all(|node| node.is_bare()) {
        let bare = "no GPU node has labels of GPU Feature Discovery, the pods check driver and GPU themselves before they start";
        parts.push(bare.to_owned());
    }
    let away = fitting.iter().filter(|node| node.cordoned || !node.ready).count();
    let faulty = fitting.iter().filter(|node| !node.faults.is_empty()).count();
    let shared = fitting.iter().filter(|node| node.sharing(gate.resource()).is_some()).count();
    let notes = [(away, "cordoned or not ready now"), (faulty, "reporting a fault now"), (shared, "with shared GPUs")];
    parts.extend(notes.iter().filter(|(count, _)| *count > 0).map(|(count, note)| format!("{count} of them {note}")));
    parts.extend(funnel::misfits(gate, funnel.offered().iter().copied()));
    parts.join("; ")
}
