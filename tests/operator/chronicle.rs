//! What the API server remembers of a life, read when it is over and held to what is promised of every life: each member is made
//! once, the members of one attempt alone live at a time, counts and revisions never fall, and nothing is written to a job that has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::pin;

use crds::contract::labels;
use crds::status::JobStatus;
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, WatchParams};
use kube::core::WatchEvent;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::yard::Yard;

/// Name of the object that is made when a life is over: the watch has told all when it tells of it.
const LAST: &str = "last";

/// A life from its beginning.
pub(crate) struct Chronicle {
    /// The resource version at its beginning, by kind: the API server begins to remember each kind by itself.
    since: BTreeMap<String, String>,
}

/// A pod that is there.
struct There {
    uid: String,
    gang: String,
    attempt: u32,
    lives: bool,
    node: Option<String>,
}

impl Chronicle {
    pub(crate) async fn begin(yard: &Yard) -> Chronicle {
        let jobs = [of_now::<TrainingJob>(yard).await, of_now::<ScoringJob>(yard).await];
        let others = [of_now::<Pod>(yard).await, of_now::<ModelEndpoint>(yard).await];
        Chronicle { since: jobs.into_iter().chain(others).collect() }
    }

    /// # Panics
    /// Where a promise was broken.
    pub(crate) async fn keeps_what_was_promised(&self, yard: &Yard) {
        yard.namespace.create::<Pod>(json!({"metadata": {"name": LAST}, "spec": {"containers": [{"name": "a", "image": "a"}], "schedulerName": "nobody"}})).await;
        yard.train(LAST, json!({"managedBy": "example.org/nobody"})).await;
        yard.score(LAST, json!({"managedBy": "example.org/nobody"})).await;
        let nodes = Api::<Node>::all(yard.namespace.client());
        let nodes = nodes.list_metadata(&ListParams::default()).await.expect("a list of nodes");
        let nodes: BTreeSet<String> = nodes.iter().map(ResourceExt::name_any).collect();
        let pods = self.read::<Pod>(yard).await;
        // Shown with a failure, here or where the end is compared.
        let story: Vec<String> = pods.iter().map(told).collect();
        println!("{}:\n{}", yard.namespace.name(), story.join("\n"));
        pods_are_made_once_and_live_with_their_own(pods, &nodes);
        let status = |job: &TrainingJob| job.status.as_ref().map(|status| (status.job.clone(), json!(status)));
        statuses_go_forward(self.read(yard).await, status);
        let status = |job: &ScoringJob| job.status.as_ref().map(|status| (status.job.clone(), json!(status)));
        statuses_go_forward(self.read(yard).await, status);
        let endpoints = yard.namespace.api::<ModelEndpoint>().list_metadata(&ListParams::default()).await;
        if !endpoints.expect("a list of endpoints").items.is_empty() {
            yard.serve(LAST, json!({"suspend": true})).await;
            revisions_go_forward(self.read(yard).await);
        }
    }

    /// Everything that happened to the objects of a kind, in its order.
    async fn read<K>(&self, yard: &Yard) -> Vec<WatchEvent<K>>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = yard.namespace.api();
        let mut events =
            pin!(api.watch(&WatchParams::default().timeout(60), &self.since[&*K::kind(&())]).await.expect("a watch"));
        let mut all = Vec::new();
        while let Some(event) = events.next().await {
            match event.expect("an event") {
                WatchEvent::Error(status) => panic!("what happened is forgotten: {status:?}"),
                WatchEvent::Added(object) if object.name_any() == LAST => break,
                event => all.push(event),
            }
        }
        all
    }
}

/// A kind, and its version now as what the API server remembers of it has it.
async fn of_now<K>(yard: &Yard) -> (String, String)
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let remembered = ListParams::default().match_any();
    let list = yard.namespace.api::<K>().list_metadata(&remembered).await.expect("a list");
    (K::kind(&()).into_owned(), list.metadata.resource_version.expect("a version"))
}

fn pods_are_made_once_and_live_with_their_own(events: Vec<WatchEvent<Pod>>, nodes: &BTreeSet<String>) {
    let (mut made, mut there) = (BTreeSet::new(), BTreeMap::<String, There>::new());
    for event in events {
        match event {
            WatchEvent::Added(pod) => {
                let owner = pod.owner_references().first().map(|owner| owner.uid.clone());
                let is_new = made.insert((owner, pod.name_any()));
                assert!(is_new, "{} was made twice", pod.name_any());
                there.insert(pod.name_any(), There::of(&pod));
            }
            WatchEvent::Modified(pod) => drop(there.insert(pod.name_any(), There::of(&pod))),
            WatchEvent::Deleted(pod) => drop(there.remove(&pod.name_any())),
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
        }
        // What is on a node that is gone is fenced off.
        let on_a_node = |pod: &&There| pod.node.as_ref().is_none_or(|node| nodes.contains(node));
        let mut lives = BTreeMap::new();
        for pod in there.values().filter(|pod| pod.lives).filter(on_a_node) {
            let attempt = *lives.entry((&pod.uid, &pod.gang)).or_insert(pod.attempt);
            assert_eq!(attempt, pod.attempt, "two attempts of one gang live at once");
        }
    }
}

/// An event in a line: what a failure is understood by.
fn told(event: &WatchEvent<Pod>) -> String {
    let (verb, pod) = match event {
        WatchEvent::Added(pod) => ("added", pod),
        WatchEvent::Modified(pod) => ("modified", pod),
        WatchEvent::Deleted(pod) => ("deleted", pod),
        WatchEvent::Bookmark(_) | WatchEvent::Error(_) => return "nothing of a pod".to_owned(),
    };
    let owner = pod.owner_references().first().map(|owner| owner.uid.as_str()).unwrap_or_default();
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let stops = if pod.metadata.deletion_timestamp.is_some() { ", being stopped" } else { "" };
    format!("{verb} {} of {owner}: {phase}{stops}", pod.name_any())
}

impl There {
    fn of(pod: &Pod) -> There {
        let label = |name: &str| pod.labels().get(name).cloned().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        There {
            uid: pod.owner_references().first().map(|owner| owner.uid.clone()).unwrap_or_default(),
            // The shards of a ScoringJob are gangs of one.
            gang: if label(labels::KIND) == "ScoringJob" { label(labels::MEMBER) } else { String::new() },
            attempt: label(labels::ATTEMPT).parse().unwrap_or_default(),
            lives: !matches!(phase, Some("Succeeded" | "Failed")),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        }
    }
}

fn statuses_go_forward<K: Resource>(events: Vec<WatchEvent<K>>, status: impl Fn(&K) -> Option<(JobStatus, Value)>) {
    let mut last: BTreeMap<String, (JobStatus, Value)> = BTreeMap::new();
    for event in events {
        let (WatchEvent::Added(job) | WatchEvent::Modified(job)) = event else { continue };
        let Some((now, whole)) = status(&job) else { continue };
        let uid = job.meta().uid.clone().unwrap_or_default();
        if let Some((before, known)) = last.get(&uid) {
            let counts = |status: &JobStatus| [status.attempt, status.restarts, status.failures];
            for (was, is) in counts(before).into_iter().zip(counts(&now)) {
                assert!(was <= is, "a count fell: {before:?}, then {now:?}");
            }
            assert!(!before.phase.is_terminal() || *known == whole, "a job that had ended was written to: {whole}");
        }
        last.insert(uid, (now, whole));
    }
}

fn revisions_go_forward(events: Vec<WatchEvent<ModelEndpoint>>) {
    let mut last = BTreeMap::new();
    for event in events {
        let (WatchEvent::Added(endpoint) | WatchEvent::Modified(endpoint)) = event else { continue };
        let newest = endpoint.status.as_ref().map_or(0, |status| status.latest_revision);
        let before = last.insert(endpoint.metadata.uid, newest).unwrap_or_default();
        assert!(before <= newest, "the revision fell from {before} to {newest}");
    }
}
