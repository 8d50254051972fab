//! Where a job computes on CPUs: nearly anywhere, so that there is no funnel but what its pods ask for.

use crds::infrastructure::Device;
use crds::status::bounded;

use super::gate::{Gate, Step};
use super::refusal::{Refusal, Why};
use super::{Catalogue, Placed, Request, excluded, funnel, named, too_many};
use crate::observe::NodeFacts;

/// Decides where a job computes on CPUs, which it does for this reason. An autoscaler may bring larger nodes than there are.
pub(super) fn place(
    request: &Request<'_>,
    nodes: Option<&[NodeFacts]>,
    catalogue: &Catalogue,
    reason: &str,
) -> Result<Placed, Refusal> {
    let infrastructure = request.infrastructure;
    let runtime = match named(request, catalogue)? {
        Some(runtime) => Some(runtime),
        None if infrastructure.image.is_some() => None,
        None => catalogue.for_cpus(),
    };
    let tolerations = infrastructure.pod.tolerations.clone();
    let excluded = excluded(request, &[]);
    let gate = Gate { infrastructure, runtime, excluded, tolerations, bare_will_do: true };
    // CPUs are everywhere, and more nodes may be chosen yet: that there is none to choose now is worth no refusal.
    let usable = |node: &&NodeFacts| gate.passes(Step::Chosen, node) && gate.passes(Step::Tolerated, node);
    let usable: Vec<&NodeFacts> = nodes.unwrap_or_default().iter().filter(usable).collect();
    if !usable.is_empty() && !usable.iter().any(|node| gate.passes(Step::Kept, node)) {
        let message = format!("an attempt met a fault on each of the {} nodes that the job may use", usable.len());
        let hint = "They are tried again after a while; repair them, or add nodes";
        return Err(Refusal::new(Why::NoFittingNode, message, hint));
    }
    let mut reason = reason.to_owned();
    if let Some(misfits) = funnel::misfits(&gate, usable.iter().copied()) {
        if !request.autoscaled && !usable.iter().any(|node| gate.passes(Step::Platform, node)) {
            let hint = "Add nodes that it is for, or have a runtime for these added to the catalogue";
            return Err(Refusal::new(
                Why::NoFittingNode,
                format!("of the nodes that the job may use, {misfits}"),
                hint,
            ));
        }
        reason = format!("{reason}; {misfits}");
    }
    let fitting =
        usable.iter().copied().filter(|node| gate.passes(Step::Kept, node) && gate.passes(Step::Platform, node));
    if let Some(refusal) = too_large(request, &gate, &fitting.collect::<Vec<_>>()).filter(|_| !request.autoscaled) {
        let message = match infrastructure.device {
            Device::Auto => format!("{reason}; {}", refusal.message),
            Device::Gpu | Device::Cpu => refusal.message,
        };
        return Err(Refusal { message, ..refusal });
    }
    let affinity = gate.cpu_affinity().map_err(|many| too_many(&many))?;
    let image = infrastructure.image.clone().or_else(|| runtime.map(|runtime| runtime.image.clone()));
    Ok(Placed {
        device: Device::Cpu,
        runtime: runtime.map(|runtime| runtime.name.clone()),
        image: image.unwrap_or_default(),
        resource: None,
        gpus: 0,
        affinity,
        tolerations: gate.tolerations,
        reason: bounded(&reason),
    })
}

/// Why the pods that must live at a time never have room on these nodes, were they empty.
fn too_large(request: &Request<'_>, gate: &Gate<'_>, nodes: &[&NodeFacts]) -> Option<Refusal> {
    let room = nodes.iter().map(|node| gate.room_on(node)).fold(0, u64::saturating_add);
    let sizes: Vec<String> = gate.sizes().collect();
    if sizes.is_empty() || nodes.is_empty() || room >= u64::from(request.gang) {
        return None;
    }
    let size = funnel::all_of(&sizes);
    let there = if nodes.len() == 1 { "the 1 node".to_owned() } else { format!("the {} nodes", nodes.len()) };
    if room == 0 {
        let message = format!(
            "each pod needs {size}; none of {there} that the job may use has them ({})",
            funnel::largest(gate, nodes)
        );
        let hint = "Ask for less in infrastructure.pod.resources, or add larger nodes";
        return Some(Refusal::new(Why::NoFittingNode, message, hint));
    }
    let message = format!(
        "{} pods of {size} each must run at a time, and there is room for {room} on {there} that the job may use",
        request.gang
    );
    let hint = format!("Set infrastructure.nodes to {room} or fewer, ask for less in pod.resources, or add nodes");
    Some(Refusal::new(Why::NoFittingNode, message, hint))
}
