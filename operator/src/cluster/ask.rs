//! What a person asks a cluster: which nodes there are for jobs, and why a job is where it is, or nowhere.

use crds::status::{Placement, bounded};
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};

use super::OperatorError;
use super::kind::Kind;
use super::place::Told;
use crate::observe::{Backoff, Ledger, NodeFacts, Setting};
use crate::placement::{self, Catalogue, Request, Table};

/// What places are judged by, besides the nodes.
#[derive(Clone, Copy, Debug)]
pub struct Judging<'a> {
    /// The runtimes that there are.
    pub catalogue: &'a Catalogue,
    /// Whether an autoscaler adds nodes for pods that wait.
    pub autoscaled: bool,
}

/// Nodes that one answer of the API server holds at most.
const PAGE: u32 = 500;

/// The nodes as placement sees them, as a table.
///
/// # Errors
/// The cluster can't be reached, or nodes may not be read.
pub async fn nodes(client: &Client) -> Result<String, OperatorError> {
    Ok(placement::nodes(&facts(client).await?).to_string())
}

/// Why a job is where it is: what its status says, what would be decided now, and what each node lacks.
///
/// `job` is its name, or kind and name with a slash between (`tj/a`, `sj/a`, `me/a`); a name alone is that of a TrainingJob, or
/// else of a ScoringJob, or else of a ModelEndpoint.
///
/// # Errors
/// There is no such job, or the cluster can't be reached.
pub async fn why(
    client: &Client,
    namespace: Option<&str>,
    job: &str,
    judging: Judging<'_>,
) -> Result<String, OperatorError> {
    let namespace = namespace.unwrap_or(client.default_namespace());
    let nodes = facts(client).await?;
    let (kind, name) = job.split_once('/').unwrap_or(("", job));
    let is = |names: [&str; 3]| kind.is_empty() || names.contains(&kind.to_ascii_lowercase().as_str());
    if is(["tj", "trainingjob", "trainingjobs"])
        && let Some(job) = Api::<TrainingJob>::namespaced(client.clone(), namespace).get_opt(name).await?
    {
        return Ok(explain(&job, &nodes, judging));
    }
    if is(["sj", "scoringjob", "scoringjobs"])
        && let Some(job) = Api::<ScoringJob>::namespaced(client.clone(), namespace).get_opt(name).await?
    {
        return Ok(explain(&job, &nodes, judging));
    }
    if is(["me", "modelendpoint", "modelendpoints"])
        && let Some(endpoint) = Api::<ModelEndpoint>::namespaced(client.clone(), namespace).get_opt(name).await?
    {
        return Ok(explain_endpoint(&endpoint, &nodes, judging));
    }
    Err(OperatorError::NoJob { job: job.to_owned(), namespace: namespace.to_owned() })
}

async fn facts(client: &Client) -> Result<Vec<NodeFacts>, OperatorError> {
    let api = Api::<Node>::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    let mut facts = Vec::new();
    loop {
        let list = api.list(&page).await?;
        facts.extend(list.items.iter().map(NodeFacts::of));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(facts),
        }
    }
}

fn explain<K: Kind>(job: &K, nodes: &[NodeFacts], judging: Judging<'_>) -> String {
    let ledger = job.status().map(Ledger::of).unwrap_or_default();
    let told = Told::by(&ledger);
    let infrastructure = job.infrastructure();
    let backoff = Backoff { first_seconds: 0, most_seconds: 0 };
    let pods = job.wishes(Setting::anywhere(backoff)).members();
    let Judging { catalogue, autoscaled } = judging;
    let request = Request {
        pods,
        unfit: &told.unfit,
        had_gpus: told.had_gpus,
        autoscaled,
        ..Request::together(infrastructure, &told.excluded)
    };
    let stands = format!("Phase: {:?}. {}\n", ledger.phase, ledger.message);
    judged(stands, ledger.placement.as_ref(), "attempt", &request, nodes, catalogue)
}

fn explain_endpoint(endpoint: &ModelEndpoint, nodes: &[NodeFacts], judging: Judging<'_>) -> String {
    let status = endpoint.status.clone().unwrap_or_default();
    let Judging { catalogue, autoscaled } = judging;
    let request = Request { autoscaled, ..Request::apart(&endpoint.spec.infrastructure, &[], endpoint.spec.replicas) };
    let stands = format!("Phase: {:?}. {}\n", status.phase, status.message);
    judged(stands, status.placement.as_ref(), "new revision", &request, nodes, catalogue)
}

/// Where it was placed, where the next one would go, and what each node has and lacks for it.
fn judged(
    mut text: String,
    placement: Option<&Placement>,
    next: &str,
    request: &Request<'_>,
    nodes: &[NodeFacts],
    catalogue: &Catalogue,
) -> String {
    if let Some(placement) = placement {
        text += &format!("Placed on {:?}: {}\n", placement.device, placement.reason);
    }
    let article = if next.starts_with('a') { "An" } else { "A" };
    text += &match placement::place(request, Some(nodes), catalogue) {
        Ok(placed) => format!("{article} {next} now would go to {:?}: {}\n", placed.device, bounded(&placed.reason)),
        Err(refusal) => format!("{article} {next} now has no place: {}\n", refusal.text()),
    };
    match placement::why(request, nodes, catalogue) {
        Ok(rows) => text + "\n" + &Table::of_why(&rows).to_string(),
        Err(_) => text,
    }
}
