//! What the watches have told of what belongs to endpoints: of each kind one object for an endpoint, by the endpoint's UID; and
//! the pods, by its namespace and name, since their owners are ReplicaSets.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use crds::contract::labels;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::runtime::watcher::Event;

use super::super::context::lock;
use super::super::pods::Owner;
use crate::observe::endpoint::Server;

/// One kind of object, as the facts that are kept of each.
#[derive(Debug)]
pub(crate) struct Cache<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    known: HashMap<String, Known<T>>,
    /// Those named by a list that is still coming in.
    listed: HashMap<String, Known<T>>,
    ready: bool,
}

/// What is known of one object.
#[derive(Clone, Debug)]
pub(super) struct Known<T> {
    owner: Owner,
    pub(super) uid: String,
    version: u128,
    pub(super) facts: T,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Cache(Mutex::new(State { known: HashMap::new(), listed: HashMap::new(), ready: false }))
    }
}

impl<T: Clone> Cache<T> {
    /// Takes in what the watch says; tells whose objects have changed.
    pub(super) fn hear<K: Resource>(&self, event: Event<K>, facts: impl Fn(&K) -> T) -> Vec<Owner> {
        let mut state = lock(&self.0);
        match event {
            Event::Init => {
                state.listed.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let Some(known) = known(&object, facts) else { return Vec::new() };
                state.listed.insert(known.owner.uid.clone(), known);
                Vec::new()
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut state.listed);
                let before = std::mem::replace(&mut state.known, listed);
                state.ready = true;
                before
                    .into_values()
                    .map(|known| known.owner)
                    .chain(state.known.values().map(|known| known.owner.clone()))
                    .collect()
            }
            Event::Apply(object) => {
                let Some(known) = known(&object, facts) else { return Vec::new() };
                let owner = known.owner.clone();
                insert(&mut state.known, known);
                vec![owner]
            }
            Event::Delete(object) => {
                let Some(gone) = known(&object, facts) else { return Vec::new() };
                // One of the same name may be there already.
                if state.known.get(&gone.owner.uid).is_some_and(|known| known.uid == gone.uid) {
                    state.known.remove(&gone.owner.uid);
                }
                vec![gone.owner]
            }
        }
    }

    /// Takes in an object that the API server has answered with: our own writes are seen at once.
    pub(super) fn learn<K: Resource>(&self, object: &K, facts: impl Fn(&K) -> T) {
        if let Some(known) = known(object, facts) {
            insert(&mut lock(&self.0).known, known);
        }
    }

    /// The object of an endpoint.
    pub(super) fn get(&self, endpoint: &str) -> Option<Known<T>> {
        lock(&self.0).known.get(endpoint).cloned()
    }

    /// Forgets the object of an endpoint that is gone, or an object that is.
    pub(super) fn forget(&self, endpoint: &str) {
        lock(&self.0).known.remove(endpoint);
    }

    /// Whether the first list is in.
    pub(super) fn is_ready(&self) -> bool {
        lock(&self.0).ready
    }
}

/// Keeps the newer one: the watch may lag behind what our own writes have told.
fn insert<T>(all: &mut HashMap<String, Known<T>>, new: Known<T>) {
    if all.get(&new.owner.uid).is_none_or(|known| known.version <= new.version) {
        all.insert(new.owner.uid.clone(), new);
    }
}

fn known<K: Resource, T>(object: &K, facts: impl Fn(&K) -> T) -> Option<Known<T>> {
    let metadata = object.meta();
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let owner = Owner {
        kind: owner.kind.clone(),
        namespace: metadata.namespace.clone()?,
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    };
    // Resource versions of one resource grow.
    let version = metadata.resource_version.as_ref()?.parse().ok()?;
    Some(Known { owner, uid: metadata.uid.clone()?, version, facts: facts(object) })
}

/// The pods of endpoints.
#[derive(Debug, Default)]
pub(crate) struct Servers(Mutex<Pods>);

#[derive(Debug, Default)]
struct Pods {
    known: HashMap<(String, String), BTreeMap<String, Server>>,
    listed: HashMap<(String, String), BTreeMap<String, Server>>,
}

impl Servers {
    /// Takes in what the watch of all pods says; tells which endpoints it is about, by namespace and name.
    pub(in crate::cluster) fn hear(&self, event: &Event<Pod>) -> Vec<(String, String)> {
        let mut pods = lock(&self.0);
        match event {
            Event::Init => {
                pods.listed.clear();
                Vec::new()
            }
            Event::InitApply(pod) => {
                if let Some((endpoint, server)) = server(pod) {
                    pods.listed.entry(endpoint).or_default().insert(server.name.clone(), server);
                }
                Vec::new()
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut pods.listed);
                let before = std::mem::replace(&mut pods.known, listed);
                let concerned: BTreeSet<_> = before.into_keys().chain(pods.known.keys().cloned()).collect();
                concerned.into_iter().collect()
            }
            Event::Apply(pod) => {
                let Some((endpoint, server)) = server(pod) else { return Vec::new() };
                pods.known.entry(endpoint.clone()).or_default().insert(server.name.clone(), server);
                vec![endpoint]
            }
            Event::Delete(pod) => {
                let Some((endpoint, gone)) = server(pod) else { return Vec::new() };
                if let Entry::Occupied(mut servers) = pods.known.entry(endpoint.clone()) {
                    servers.get_mut().retain(|_, server| server.uid != gone.uid);
                    if servers.get().is_empty() {
                        servers.remove();
                    }
                }
                vec![endpoint]
            }
        }
    }

    /// The pods of an endpoint, by their names.
    pub(super) fn of(&self, owner: &Owner) -> Vec<Server> {
        let pods = lock(&self.0);
        let of_endpoint = pods.known.get(&(owner.namespace.clone(), owner.name.clone()));
        of_endpoint.into_iter().flat_map(BTreeMap::values).cloned().collect()
    }
}

fn server(pod: &Pod) -> Option<((String, String), Server)> {
    let labels = pod.metadata.labels.as_ref()?;
    labels.get(labels::KIND).filter(|kind| *kind == super::KIND)?;
    Some(((pod.metadata.namespace.clone()?, labels.get(labels::JOB)?.clone()), Server::of(pod)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_an_endpoint_whose_last_pod_is_gone_nothing_is_kept() {
        let pod = |name: &str| -> Pod {
            let labels = [(labels::KIND, super::super::KIND), (labels::JOB, "a"), (labels::ATTEMPT, "1")];
            let labels = BTreeMap::from(labels);
            let metadata = json!({"namespace": "n", "name": name, "uid": name, "labels": labels});
            serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": []}})).expect("a pod")
        };
        let servers = Servers::default();
        let kept = || lock(&servers.0).known.values().map(BTreeMap::len).collect::<Vec<_>>();
        for (event, left) in [
            (Event::Apply(pod("a-1")), vec![1]),
            (Event::Apply(pod("a-2")), vec![2]),
            (Event::Delete(pod("a-1")), vec![1]),
            (Event::Delete(pod("a-2")), vec![]),
            (Event::Delete(pod("a-2")), vec![]),
        ] {
            assert_eq!(servers.hear(&event), [("n".to_owned(), "a".to_owned())]);
            assert_eq!(kept(), left);
        }
    }
}
