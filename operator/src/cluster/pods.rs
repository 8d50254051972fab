//! The pods of our jobs as the watch has told of them, by the job that owns them. What is kept of a pod is what a decision
//! rests on; pods of others are never asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;

use crate::observe::pod::{NodeState, PodFacts};
use crate::observe::{Member, MemberId};

/// What has become known of the pods of all jobs.
#[derive(Debug, Default)]
pub(super) struct Pods(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By the UID of the owner.
    known: HashMap<String, BTreeMap<MemberId, PodFacts>>,
    /// The job of each UID.
    owners: HashMap<String, Owner>,
    /// Those named by a list that is still coming in.
    listed: HashMap<String, BTreeMap<MemberId, PodFacts>>,
    ready: bool,
}

/// A job whose pods have changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    /// Its kind.
    pub(super) kind: String,
    /// Its namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// Its UID.
    pub(super) uid: String,
}

impl Owner {
    /// The job that owns a pod.
    pub(super) fn of(pod: &Pod) -> Option<Owner> {
        let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
        Some(Owner {
            kind: owner.kind.clone(),
            namespace: pod.metadata.namespace.clone()?,
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        })
    }
}

impl Pods {
    /// Takes in what the watch says; tells whose pods have changed.
    pub(super) fn hear(&self, event: Event<Pod>) -> Vec<Owner> {
        let mut state = self.lock();
        match event {
            Event::Init => {
                state.listed.clear();
                Vec::new()
            }
            Event::InitApply(pod) => {
                let Some((owner, facts)) = facts(&pod) else { return Vec::new() };
                state.owners.entry(owner.uid.clone()).or_insert_with(|| owner.clone());
                state.listed.entry(owner.uid.clone()).or_default().insert(facts.id, facts);
                vec![owner]
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut state.listed);
                let before = std::mem::replace(&mut state.known, listed);
                // What ended while nobody watched and is gone still tells how it ended.
                for (uid, pods) in before {
                    for (id, mut facts) in pods.into_iter().filter(|(_, facts)| facts.has_ended()) {
                        facts.is_gone = true;
                        state.known.entry(uid.clone()).or_default().entry(id).or_insert(facts);
                    }
                }
                state.ready = true;
                Vec::new()
            }
            Event::Apply(pod) => {
                let Some((owner, facts)) = facts(&pod) else { return Vec::new() };
                state.owners.entry(owner.uid.clone()).or_insert_with(|| owner.clone());
                state.known.entry(owner.uid.clone()).or_default().insert(facts.id, facts);
                vec![owner]
            }
            Event::Delete(pod) => {
                let Some((owner, mut facts)) = facts(&pod) else { return Vec::new() };
                let of_owner = state.known.entry(owner.uid.clone()).or_default();
                // A pod of the same name may be there already.
                if of_owner.get(&facts.id).is_none_or(|known| known.uid == facts.uid) {
                    if facts.has_ended() {
                        facts.is_gone = true;
                        of_owner.insert(facts.id, facts);
                    } else {
                        of_owner.remove(&facts.id);
                    }
                }
                vec![owner]
            }
        }
    }

    /// Takes in a pod that the API server has answered with: our own writes are seen at once.
    pub(super) fn learn(&self, pod: &Pod) {
        let Some((owner, facts)) = facts(pod) else { return };
        self.lock().known.entry(owner.uid).or_default().entry(facts.id).or_insert(facts);
    }

    /// Forgets a pod that is gone and whose end is accounted for.
    pub(super) fn forget(&self, job: &str, id: MemberId, uid: &str) {
        if let Some(pods) = self.lock().known.get_mut(job)
            && pods.get(&id).is_some_and(|facts| facts.uid == uid && facts.is_gone)
        {
            pods.remove(&id);
        }
    }

    /// Forgets all pods of a job that is gone.
    pub(super) fn forget_job(&self, job: &str) {
        let mut state = self.lock();
        state.known.remove(job);
        state.owners.remove(job);
    }

    /// The members of a job, by what `node` knows of their nodes.
    pub(super) fn members(&self, job: &str, node: impl Fn(&str) -> NodeState, now: Timestamp) -> Vec<Member> {
        let state = self.lock();
        let pods = state.known.get(job).into_iter().flat_map(BTreeMap::values);
        pods.map(|facts| facts.member(facts.node.as_deref().map(&node).unwrap_or_default(), now)).collect()
    }

    /// The address of a member's pod.
    pub(super) fn address(&self, job: &str, id: MemberId) -> Option<String> {
        self.lock().known.get(job)?.get(&id)?.address.clone()
    }

    /// All jobs that have pods.
    pub(super) fn owners(&self) -> Vec<Owner> {
        let state = self.lock();
        state.known.keys().filter_map(|uid| state.owners.get(uid).cloned()).collect()
    }

    /// Whether the first list is in.
    pub(super) fn is_ready(&self) -> bool {
        self.lock().ready
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held can only have lost one event's change; the next list brings it back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn facts(pod: &Pod) -> Option<(Owner, PodFacts)> {
    Some((Owner::of(pod)?, PodFacts::of(pod)?))
}
