//! The pods of our jobs as the watch has told of them, by the job that owns them. What is kept of a pod is what a decision
//! rests on; pods of others are never asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::Event;

use crate::observe::pod::{NodeState, PodFacts};
use crate::observe::{Member, MemberId};

/// What has become known of the pods of all jobs.
#[derive(Debug, Default)]
pub(super) struct Pods(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashMap<Owner, BTreeMap<MemberId, PodFacts>>,
    /// Those named by a list that is still coming in.
    listed: HashMap<Owner, BTreeMap<MemberId, PodFacts>>,
    /// The newest version that the watch has told of: what is older, it has told.
    heard: u128,
    /// The same of the pods of each job.
    told: HashMap<Owner, u128>,
    /// The version of the newest list of each job's pods that was asked of the API server itself.
    asked: HashMap<Owner, u128>,
    /// The jobs that may have pods which are not known: only a list that is asked for tells.
    doubted: HashSet<Owner>,
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
    /// This object as the owner of others.
    pub(super) fn named<K: Resource<DynamicType = ()>>(object: &K) -> Owner {
        let metadata = object.meta();
        Owner {
            kind: K::kind(&()).into_owned(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
        }
    }

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

impl State {
    /// The watch has told of a pod of this job at this version.
    fn tell(&mut self, job: &Owner, version: u128) {
        match self.told.get_mut(job) {
            Some(told) => *told = version.max(*told),
            None => drop(self.told.insert(job.clone(), version)),
        }
    }
}

impl Pods {
    /// Takes in what the watch says; tells whose pods have changed.
    pub(super) fn hear(&self, event: Event<Pod>) -> Vec<Owner> {
        let mut state = self.lock();
        if let Event::InitApply(pod) | Event::Apply(pod) | Event::Delete(pod) = &event {
            let version = version(pod.metadata.resource_version.as_ref()).unwrap_or_default();
            state.heard = state.heard.max(version);
        }
        match event {
            Event::Init => {
                state.listed.clear();
                Vec::new()
            }
            Event::InitApply(pod) => {
                let Some((owner, facts)) = facts(&pod) else { return Vec::new() };
                state.tell(&owner, facts.version);
                state.listed.entry(owner).or_default().insert(facts.id, facts);
                Vec::new()
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut state.listed);
                let before = std::mem::replace(&mut state.known, listed);
                // Of some nothing is left: they have lost pods while nobody watched.
                let concerned: HashSet<Owner> = before.keys().chain(state.known.keys()).cloned().collect();
                // What ended while nobody watched and is gone still tells how it ended.
                for (owner, pods) in before {
                    for (id, mut facts) in pods.into_iter().filter(|(_, facts)| facts.has_ended()) {
                        facts.is_gone = true;
                        state.known.entry(owner.clone()).or_default().entry(id).or_insert(facts);
                    }
                }
                // A page of it may be older than a pod that was made and known meanwhile.
                state.doubted.extend(concerned.iter().cloned());
                state.ready = true;
                concerned.into_iter().collect()
            }
            Event::Apply(pod) => {
                let Some((owner, facts)) = facts(&pod) else { return Vec::new() };
                state.tell(&owner, facts.version);
                let asked = state.asked.get(&owner).copied().unwrap_or_default();
                let of_owner = state.known.entry(owner.clone()).or_default();
                // What the list lacked that was asked for since is gone.
                if facts.version > asked || of_owner.get(&facts.id).is_some_and(|known| known.uid == facts.uid) {
                    keep(of_owner, facts);
                }
                vec![owner]
            }
            Event::Delete(pod) => {
                let Some((owner, mut facts)) = facts(&pod) else { return Vec::new() };
                state.tell(&owner, facts.version);
                let of_owner = state.known.entry(owner.clone()).or_default();
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

    /// Takes in a pod that the API server has answered with: our own writes are seen at once. Of an answer that has come later
    /// than the watch, the watch has told already, and perhaps that the pod is gone.
    pub(super) fn learn(&self, pod: &Pod) {
        let Some((owner, facts)) = facts(pod) else { return };
        let mut state = self.lock();
        if facts.version > state.heard {
            keep(state.known.entry(owner).or_default(), facts);
        } else if !state.known.get(&owner).is_some_and(|pods| pods.contains_key(&facts.id)) {
            state.doubted.insert(owner);
        }
    }

    /// Notes that a job may have a pod that is not known: one was asked for, and no answer says whether it was made.
    pub(super) fn doubt(&self, job: &Owner) {
        self.lock().doubted.insert(job.clone());
    }

    /// Whether a job may have pods that are not known, apart from those that somebody else has made.
    pub(super) fn is_doubted(&self, job: &Owner) -> bool {
        self.lock().doubted.contains(job)
    }

    /// Takes in that a pod is being deleted, by the answer to the request, so that the next look doesn't ask for it again before the
    /// watch has told.
    pub(super) fn learn_deletion(&self, job: &Owner, id: MemberId, answer: &ObjectMeta) {
        if let Some(facts) = self.lock().known.get_mut(job).and_then(|pods| pods.get_mut(&id)) {
            facts.learn_deletion(answer);
        }
    }

    /// Takes in all pods of a job, as the API server has listed them at this version.
    pub(super) fn list(&self, job: &Owner, pods: Vec<PodFacts>, at: u128) {
        let mut state = self.lock();
        // A watch that has told of one of them what is newer has told all that the list has.
        if state.told.get(job).is_some_and(|told| *told > at) {
            return;
        }
        state.doubted.remove(job);
        let mut listed: BTreeMap<MemberId, PodFacts> = pods.into_iter().map(|facts| (facts.id, facts)).collect();
        for (id, mut facts) in state.known.remove(job).unwrap_or_default() {
            if facts.version > at {
                keep(&mut listed, facts);
            } else if facts.has_ended() {
                // What is gone still tells how it ended.
                facts.is_gone = true;
                listed.entry(id).or_insert(facts);
            }
        }
        state.known.insert(job.clone(), listed);
        state.asked.insert(job.clone(), at);
    }

    /// Forgets a pod that is gone and whose end is accounted for; where its name `is_free`, also one that the watch still has alive.
    pub(super) fn forget(&self, job: &Owner, id: MemberId, uid: &str, is_free: bool) {
        if let Some(pods) = self.lock().known.get_mut(job)
            && pods.get(&id).is_some_and(|facts| facts.uid == uid && (facts.is_gone || is_free && !facts.has_ended()))
        {
            pods.remove(&id);
        }
    }

    /// Forgets all pods of a job that is gone.
    pub(super) fn forget_job(&self, job: &Owner) {
        let mut state = self.lock();
        state.known.remove(job);
        state.told.remove(job);
        state.asked.remove(job);
        state.doubted.remove(job);
    }

    /// The members of a job, by what `node` knows of their nodes.
    pub(super) fn members(&self, job: &Owner, node: impl Fn(&str) -> NodeState, now: Timestamp) -> Vec<Member> {
        let state = self.lock();
        let pods = state.known.get(job).into_iter().flat_map(BTreeMap::values);
        pods.map(|facts| facts.member(facts.node.as_deref().map(&node).unwrap_or_default(), now)).collect()
    }

    /// The nodes of a job's pods that have not ended.
    pub(super) fn nodes(&self, job: &Owner) -> BTreeSet<String> {
        let state = self.lock();
        let pods = state.known.get(job).into_iter().flat_map(BTreeMap::values);
        pods.filter(|facts| !facts.has_ended()).filter_map(|facts| facts.node.clone()).collect()
    }

    /// The address of a member's pod.
    pub(super) fn address(&self, job: &Owner, id: MemberId) -> Option<String> {
        self.lock().known.get(job)?.get(&id)?.address.clone()
    }

    /// All jobs that have pods.
    pub(super) fn owners(&self) -> Vec<Owner> {
        self.lock().known.keys().cloned().collect()
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

/// Keeps the newer facts of a member: the watch may lag behind what an answer has told, and a pod that has ended does not live
/// again.
fn keep(pods: &mut BTreeMap<MemberId, PodFacts>, facts: PodFacts) {
    if pods.get(&facts.id).is_none_or(|known| known.version <= facts.version) {
        pods.insert(facts.id, facts);
    }
}

/// A resource version as a number. Those of one resource grow.
pub(super) fn version(text: Option<&String>) -> Option<u128> {
    text.and_then(|text| text.parse().ok())
}

/// What is kept of those pods that are this job's.
pub(super) fn facts_of<'a>(job: &'a Owner, pods: &'a [Pod]) -> impl Iterator<Item = PodFacts> + 'a {
    pods.iter().filter_map(facts).filter(move |(owner, _)| owner == job).map(|(_, facts)| facts)
}

fn facts(pod: &Pod) -> Option<(Owner, PodFacts)> {
    Some((Owner::of(pod)?, PodFacts::of(pod)?))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, job: &str, index: u32) -> Pod {
        let value = json!({
            "metadata": {
                "namespace": namespace, "name": format!("{job}-t1-{index}"), "uid": format!("{namespace}-{job}-{index}"),
                "resourceVersion": "7",
                "labels": {"trainyard.dev/attempt": "1", "trainyard.dev/member": index.to_string()},
                "ownerReferences": [{
                    "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "name": job, "uid": job, "controller": true,
                }],
            },
            "spec": {"containers": []},
        });
        serde_json::from_value(value).expect("a pod")
    }

    /// A pod of one job at a version, in a phase.
    fn at(index: u32, version: u32, phase: &str) -> Pod {
        let mut pod = pod("n", "a", index);
        pod.metadata.resource_version = Some(version.to_string());
        pod.status = serde_json::from_value(json!({"phase": phase})).expect("a status");
        pod
    }

    fn count(pods: &Pods, owner: &Owner) -> usize {
        pods.members(owner, |_| NodeState::default(), Timestamp::UNIX_EPOCH).len()
    }

    #[test]
    fn a_list_tells_of_all_jobs_once_it_is_whole_also_of_those_that_lost_their_pods_meanwhile() {
        let pods = Pods::default();
        let (a, b) = (pod("n", "a", 0), pod("n", "b", 0));
        let owners = [&a, &b].map(|pod| Owner::of(pod).expect("an owner"));
        pods.hear(Event::Apply(a));
        assert_eq!(pods.hear(Event::Init), []);
        assert_eq!(pods.hear(Event::InitApply(b)), [], "a look now would rest on what was before the list");
        assert_eq!(count(&pods, &owners[1]), 0);
        let mut told = pods.hear(Event::InitDone);
        told.sort_by(|one, other| one.name.cmp(&other.name));
        assert_eq!(told, owners);
        assert_eq!(owners.each_ref().map(|owner| count(&pods, owner)), [0, 1]);
    }

    #[test]
    fn a_pod_elsewhere_that_names_a_job_as_its_owner_is_none_of_its_members() {
        let pods = Pods::default();
        let (ours, forged) = (pod("n", "a", 0), pod("elsewhere", "a", 1));
        let owner = Owner::of(&ours).expect("an owner");
        pods.hear(Event::Apply(ours));
        let told = pods.hear(Event::Apply(forged));
        assert_ne!(told[0], owner);
        pods.forget_job(&told[0]);
        assert_eq!(count(&pods, &owner), 1);
    }

    #[test]
    fn a_list_that_was_asked_for_is_the_truth_of_its_time_whatever_an_old_watch_tells_afterwards() {
        let pods = Pods::default();
        let owner = Owner::of(&at(0, 1, "")).expect("an owner");
        let live = || {
            let members = pods.members(&owner, |_| NodeState::default(), Timestamp::UNIX_EPOCH);
            members.iter().filter(|member| member.is_live()).map(|member| member.id.index).collect::<Vec<_>>()
        };
        // The first list was an old one.
        for event in [Event::Init, Event::InitApply(at(0, 3, "Running")), Event::InitApply(at(1, 4, "Failed"))] {
            pods.hear(event);
        }
        pods.hear(Event::InitDone);
        pods.list(&owner, facts_of(&owner, &[at(2, 20, "Running")]).collect(), 30);
        assert_eq!(live(), [2]);
        let all = pods.members(&owner, |_| NodeState::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(all.len(), 2, "how the second one ended is still known");
        // Now the watch tells what came after its own list, long after it was so.
        for (event, then) in [
            (Event::Apply(at(0, 5, "Running")), vec![2]),
            (Event::Apply(at(2, 15, "Pending")), vec![2]),
            (Event::Delete(at(0, 16, "Running")), vec![2]),
            (Event::Apply(at(3, 31, "Running")), vec![2, 3]),
        ] {
            pods.hear(event);
            assert_eq!(live(), then);
        }
        pods.list(&owner, Vec::new(), 30);
        assert_eq!(live(), [2, 3], "the watch has told what is newer than this list");
    }

    #[test]
    fn pods_of_a_job_that_may_not_be_known_are_doubted_until_they_are_listed() {
        let pods = Pods::default();
        let made = |index: u32, version: u32| {
            let mut pod = pod("n", "a", index);
            pod.metadata.resource_version = Some(version.to_string());
            pod
        };
        let owner = Owner::of(&made(0, 1)).expect("an owner");
        let list = |at| pods.list(&owner, facts_of(&owner, &[made(0, 10)]).collect(), at);
        pods.learn(&made(0, 10));
        pods.hear(Event::Apply(made(0, 10)));
        assert!(!pods.is_doubted(&owner), "all that was made is known");
        pods.doubt(&owner);
        assert!(pods.is_doubted(&owner), "a request was not answered");
        list(11);
        assert!(!pods.is_doubted(&owner));
        // The watch begins anew with a list that was read before a pod was made which is known by its answer.
        for event in [Event::Init, Event::InitApply(made(0, 10))] {
            pods.hear(event);
        }
        pods.learn(&made(1, 12));
        pods.hear(Event::InitDone);
        assert_eq!(count(&pods, &owner), 1);
        assert!(pods.is_doubted(&owner));
        list(13);
        assert!(!pods.is_doubted(&owner));
        pods.hear(Event::Apply(made(0, 20)));
        pods.learn(&made(2, 19));
        assert!(pods.is_doubted(&owner), "it has come and gone, or was left out");
        pods.forget_job(&owner);
        assert!(!pods.is_doubted(&owner));
    }

    #[test]
    fn what_is_known_of_a_pod_never_goes_back() {
        let pods = Pods::default();
        let at = |version: u32, phase: &str| at(0, version, phase);
        let owner = Owner::of(&at(1, "")).expect("an owner");
        let live = || pods.members(&owner, |_| NodeState::default(), Timestamp::UNIX_EPOCH).iter().any(Member::is_live);
        pods.hear(Event::Apply(at(10, "Pending")));
        // It was read once it had failed, and only then the watch tells that it ran.
        pods.learn(&at(12, "Failed"));
        pods.hear(Event::Apply(at(11, "Running")));
        assert!(!live(), "it has failed");
        pods.hear(Event::Apply(at(13, "Running")));
        assert!(live(), "this is newer");
        pods.hear(Event::Delete(at(15, "Running")));
        pods.learn(&at(14, "Running"));
        assert_eq!(count(&pods, &owner), 0, "the watch has told that it is gone");
    }

    #[test]
    fn the_answer_to_a_deletion_is_known_at_once_and_hides_nothing_that_the_watch_tells_later() {
        let pods = Pods::default();
        let at = |version: u32, phase: &str| at(0, version, phase);
        let deleted = |version: u32, phase: &str| {
            let mut pod = at(version, phase);
            pod.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
            pod
        };
        let (owner, id) = (Owner::of(&at(1, "")).expect("an owner"), MemberId { attempt: 1, index: 0 });
        let seen = || {
            let members = pods.members(&owner, |_| NodeState::default(), Timestamp::UNIX_EPOCH);
            (members[0].stopping_since.is_some(), members[0].end().is_some())
        };
        pods.hear(Event::Apply(at(10, "Running")));
        let another = ObjectMeta { uid: Some("another".to_owned()), ..deleted(12, "").metadata };
        for nothing in [another, deleted(9, "").metadata, ObjectMeta::default()] {
            pods.learn_deletion(&owner, id, &nothing);
            assert_eq!(seen(), (false, false), "{nothing:?}");
        }
        pods.learn_deletion(&owner, id, &deleted(12, "").metadata);
        assert_eq!(seen(), (true, false));
        // It had failed before it was deleted, and the watch tells of one after the other.
        pods.hear(Event::Apply(at(11, "Failed")));
        assert_eq!(seen(), (true, false));
        pods.hear(Event::Apply(deleted(12, "Failed")));
        assert_eq!(seen(), (true, true));
    }
}
