//! Endpoints as users' commands see them: found by their names, in a table, or one with its pods.

use std::fmt::Write as _;

use crds::ModelEndpoint;
use crds::contract::{GROUP, VERSION};
use crds::reasons::{condition, reason};
use crds::status::{EndpointPhase, ModelEndpointStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::access::Cluster;
use super::error::PluginError;
use super::paint::{Paint, span};
use super::tree::{count, placed};
use crate::build::endpoint::selector;
use crate::observe::endpoint::Server;
use crate::placement::Table;

/// An endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) suspended: bool,
    pub(crate) status: ModelEndpointStatus,
    /// The whole object.
    pub(crate) value: Value,
    /// Name of its GPUs.
    pub(crate) resource: String,
    /// Pods that it is to have.
    pub(crate) wished: u32,
    created: Option<Timestamp>,
}

impl From<ModelEndpoint> for Endpoint {
    fn from(endpoint: ModelEndpoint) -> Endpoint {
        let mut value = json!(endpoint);
        value["apiVersion"] = format!("{GROUP}/{VERSION}").into();
        value["kind"] = "ModelEndpoint".into();
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        Endpoint {
            value,
            namespace: endpoint.namespace().unwrap_or_default(),
            name: endpoint.name_any(),
            created: endpoint.metadata.creation_timestamp.map(|time| time.0),
            suspended: endpoint.spec.suspend,
            resource: endpoint.spec.infrastructure.gpu.resource_name,
            wished: if endpoint.spec.suspend { 0 } else { endpoint.spec.replicas },
            status: endpoint.status.unwrap_or_default(),
        }
    }
}

impl Endpoint {
    /// Its kind and name as commands take them: `me/flowers`.
    pub(crate) fn title(&self) -> String {
        format!("me/{}", self.name)
    }

    /// Its phase in a word.
    pub(crate) fn phase(&self) -> String {
        format!("{:?}", self.status.phase)
    }
}

/// The name in `me/flowers`, `modelendpoint/flowers`; `None` if an endpoint is not what is typed.
pub(crate) fn named(typed: &str) -> Option<&str> {
    let (kind, name) = typed.split_once('/')?;
    ["me", "modelendpoint", "modelendpoints"].contains(&kind.to_ascii_lowercase().as_str()).then_some(name)
}

impl Cluster {
    /// The endpoint of a name, if there is one.
    pub(crate) async fn endpoint(&self, name: &str) -> Result<Option<Endpoint>, PluginError> {
        Ok(self.api::<ModelEndpoint>().get_opt(name).await?.map(Endpoint::from))
    }

    /// The endpoint that `typed` names, if it is one that is meant: by its kind, or since no job has its name.
    pub(crate) async fn meant(&self, typed: &str) -> Result<Option<Endpoint>, PluginError> {
        if let Some(name) = named(typed) {
            let missing = || PluginError::NoJob {
                what: format!("endpoint {name}"),
                namespace: self.namespace.clone(),
                hint: ". trainyard status lists what there is; -n names another namespace".to_owned(),
            };
            return self.endpoint(name).await?.ok_or_else(missing).map(Some);
        }
        if typed.contains('/') || typed.is_empty() {
            return Ok(None);
        }
        match self.find(typed).await {
            Err(PluginError::NoJob { .. }) => self.endpoint(typed).await,
            // Whatever else there is to be said of it is said by who asks for the job.
            _ => Ok(None),
        }
    }

    /// The endpoints of the namespace, or of all, by namespace and name.
    pub(crate) async fn endpoints(&self, everywhere: bool) -> Result<Vec<Endpoint>, PluginError> {
        let found = self.list::<ModelEndpoint>(everywhere, "").await?;
        let mut endpoints: Vec<Endpoint> = found.into_iter().map(Endpoint::from).collect();
        endpoints.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(endpoints)
    }

    /// Its pods with their nodes, by their names.
    pub(crate) async fn servers(&self, endpoint: &Endpoint) -> Result<Vec<(Server, Option<String>)>, PluginError> {
        let found = self.api::<Pod>().list(&ListParams::default().labels(&selector(&endpoint.name))).await?;
        let server = |pod: &Pod| Some((Server::of(pod)?, pod.spec.as_ref().and_then(|spec| spec.node_name.clone())));
        let mut servers: Vec<_> = found.items.iter().filter_map(server).collect();
        servers.sort_by(|a, b| (a.0.revision, &a.0.name).cmp(&(b.0.revision, &b.0.name)));
        Ok(servers)
    }

    /// Suspends an endpoint, or lets it go on.
    pub(crate) async fn suspend(&self, endpoint: &Endpoint, suspend: bool) -> Result<Endpoint, PluginError> {
        let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
        Ok(self.api::<ModelEndpoint>().patch(&endpoint.name, &PatchParams::default(), &patch).await?.into())
    }
}

/// Endpoints, one a row.
pub(crate) fn table(endpoints: &[Endpoint], everywhere: bool, wide: bool, now: Option<Timestamp>) -> Table {
    let mut head = vec!["NAME", "PHASE", "READY", "REVISION", "DEVICE", "URL"];
    if now.is_some() {
        head.push("AGE");
    }
    if wide {
        head.extend(["MODEL", "RUNTIME", "MESSAGE"]);
    }
    if everywhere {
        head.insert(0, "NAMESPACE");
    }
    let row = |endpoint: &Endpoint| {
        let status = &endpoint.status;
        let text = |value: Option<String>| value.unwrap_or_default();
        let mut row = vec![
            endpoint.title(),
            endpoint.phase(),
            format!("{}/{}", status.ready_replicas, endpoint.wished),
            status.revision.to_string(),
            text(status.placement.as_ref().map(|placement| format!("{:?}", placement.device))),
            text(status.url.clone()),
        ];
        if let Some(now) = now {
            row.push(text(endpoint.created.map(|created| span(now.as_second() - created.as_second()))));
        }
        if wide {
            row.push(text(status.model.as_ref().map(|model| model.uri.clone())));
            row.push(text(status.placement.as_ref().and_then(|placement| placement.runtime.clone())));
            row.push(status.message.clone());
        }
        if everywhere {
            row.insert(0, endpoint.namespace.clone());
        }
        row
    };
    Table { head: head.into_iter().map(str::to_owned).collect(), rows: endpoints.iter().map(row).collect() }
}

/// One endpoint with its pods. Without a time no ages are told, so that the text changes only if something happened.
pub(crate) fn tree(
    endpoint: &Endpoint,
    servers: &[(Server, Option<String>)],
    now: Option<Timestamp>,
    wide: bool,
    paint: Paint,
) -> String {
    let status = &endpoint.status;
    let mut text = format!("{}   {}", paint.strong(&endpoint.title()), paint.phase(&endpoint.phase()));
    let _ = write!(text, "   {} of {}", status.ready_replicas, count(endpoint.wished, "replica"));
    if status.latest_revision > 0 {
        let _ = write!(text, ", revision {}", status.revision);
    }
    if let (Some(now), Some(created)) = (now, endpoint.created) {
        let _ = write!(text, "   {} old", span(now.as_second() - created.as_second()));
    }
    text.push('\n');
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {name:<9} {value}");
        }
    };
    field("message", &status.message);
    field("url", status.url.as_deref().unwrap_or_default());
    if let Some(model) = &status.model {
        let digest = model.digest.as_ref().map(|digest| format!("   {digest}")).unwrap_or_default();
        field("model", &format!("{}{digest}", model.uri));
    }
    field("placed", &status.placement.as_ref().map(placed).unwrap_or_default());
    let width = servers.iter().map(|(server, _)| server.name.len()).max().unwrap_or(0);
    for (index, (server, node)) in servers.iter().enumerate() {
        let branch = if index + 1 == servers.len() { "└─" } else { "├─" };
        let state = match (server.is_ready, server.is_going) {
            (true, _) => paint.good("answers"),
            (false, true) => paint.odd("stops"),
            (false, false) => paint.odd("starts"),
        };
        let (revision, node) = (server.revision, node.as_deref().unwrap_or("no node yet"));
        let _ = write!(text, "{branch} {:width$}   revision {revision}   {state}   {node}", server.name);
        let why = if server.why.is_empty() { String::new() } else { format!("   {}", server.why) };
        text += &(why + "\n");
    }
    if wide {
        for one in &status.conditions {
            let _ = writeln!(text, "  {:<9} {} {}, {}", "condition", one.type_, one.status, one.reason);
        }
    }
    let _ = writeln!(text, "  {:<9} {}", "next", paint.strong(&next(endpoint)));
    text
}

/// What to do next.
pub(crate) fn next(endpoint: &Endpoint) -> String {
    let title = endpoint.title();
    let conditions = &endpoint.status.conditions;
    let blocked = conditions.iter().find(|one| one.type_ == condition::SCHEDULABLE && one.status == "False");
    match (endpoint.status.phase, blocked.map(|one| one.reason.as_str())) {
        (EndpointPhase::Suspended, _) if endpoint.suspended => format!("trainyard resume {title}"),
        (EndpointPhase::Suspended, _) => format!("kubectl scale {title} --replicas=1"),
        (_, Some(reason::NO_FITTING_NODE)) => format!("trainyard why {title} says what each node lacks"),
        (_, Some(reason::WAITING_FOR_MODEL)) => "see to the job that the message names: trainyard status".to_owned(),
        (_, Some(reason::BAD_SPEC)) => "trainyard validate -f the manifest; the message names the field".to_owned(),
        (_, Some(_)) => "see the message: a quota, a right or a service account".to_owned(),
        (EndpointPhase::Ready | EndpointPhase::Updating, None) => {
            format!(
                "curl {}/v2/health/ready from within the cluster",
                endpoint.status.url.as_deref().unwrap_or_default()
            )
        }
        (EndpointPhase::Held | EndpointPhase::Failed | EndpointPhase::Degraded, None) => {
            format!("trainyard events {title}, and kubectl logs of a pod that does not answer")
        }
        (EndpointPhase::Pending | EndpointPhase::Starting, None) => format!("trainyard events {title} if it lasts"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        let endpoint = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "ModelEndpoint",
            "metadata": {"name": "flowers", "namespace": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"model": {"trainingJob": "flowers"}, "replicas": 2},
            "status": {
                "phase": "Held", "message": "Revision 2 did not get ready", "replicas": 3, "readyReplicas": 2, "revision": 1,
                "latestRevision": 2, "url": "http://flowers-m.a.svc:8080",
                "model": {"uri": "pvc://models/flowers", "digest": "sha256:ab"},
                "placement": {"device": "Gpu", "gpus": 2, "runtime": "cuda-13.0", "reason": "3 nodes fit"},
            },
        });
        serde_json::from_value::<ModelEndpoint>(endpoint).expect("an endpoint").into()
    }

    #[test]
    fn endpoints_are_a_table_and_one_is_a_tree() {
        let now = "2026-01-01T02:05:00Z".parse().ok();
        assert_eq!(
            table(&[endpoint()], false, false, now).to_string(),
            "\
NAME         PHASE   READY   REVISION   DEVICE   URL                           AGE
me/flowers   Held    2/2     1          Gpu      http://flowers-m.a.svc:8080   2h5m
"
        );
        let server = |name: &str, revision: u32, is_ready: bool, why: &str| Server {
            name: name.to_owned(),
            revision,
            is_ready,
            why: why.to_owned(),
            ..Server::default()
        };
        let servers = [
            (server("flowers-m-1-a", 1, true, ""), Some("node-0".to_owned())),
            (server("flowers-m-2-b", 2, false, "ImagePullBackOff"), None),
        ];
        assert_eq!(
            tree(&endpoint(), &servers, now, false, Paint::PLAIN),
            "\
me/flowers   Held   2 of 2 replicas, revision 1   2h5m old
  message   Revision 2 did not get ready
  url       http://flowers-m.a.svc:8080
  model     pvc://models/flowers   sha256:ab
  placed    Gpu, 2 GPUs, cuda-13.0: 3 nodes fit
├─ flowers-m-1-a   revision 1   answers   node-0
└─ flowers-m-2-b   revision 2   starts   no node yet   ImagePullBackOff
  next      trainyard events me/flowers, and kubectl logs of a pod that does not answer
"
        );
    }

    #[test]
    fn an_endpoint_is_named_by_its_kind() {
        for (typed, name) in [("me/a", Some("a")), ("ModelEndpoint/a", Some("a")), ("tj/a", None), ("a", None)] {
            assert_eq!(named(typed), name, "{typed}");
        }
    }
}
