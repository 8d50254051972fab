//! The nodes as the watch has told of them: what placement asks of each, and since when one can't be reached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::Event;

use crate::observe::NodeFacts;
use crate::observe::pod::NodeState;

/// Seconds for which a node may be out of reach before its pods count as lost. The API server itself waits 40 s before it
/// says that a node is.
const LOST_SECONDS: i64 = 20;

/// Seconds for which a list of nodes is taken to have every node that a pod is on.
const FRESH_SECONDS: i64 = 5;
/// Seconds after which the name of a node that is gone is forgotten.
const FORGOTTEN_SECONDS: i64 = 3600;

/// Whom a change of the nodes may concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concerns {
    /// Nobody: nothing that placement or a job looks at has changed.
    Nobody,
    /// The jobs that wait for a place.
    Unplaced,
    /// All jobs: a node may be gone, and with it their pods.
    Everybody,
}

/// What has become known of the nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashMap<String, Known>,
    listed: HashMap<String, Known>,
    /// When a name that a pod has and no node was asked for first: the watch of nodes may lag behind that of pods. Of a node that
    /// was there and is gone, or that a fresh list lacks: so long ago that it is lost.
    absent: HashMap<String, Timestamp>,
    /// When the newest list was whole.
    listed_at: Option<Timestamp>,
    /// The facts of all nodes in the order of their names, made when they are asked for.
    all: Option<Arc<Vec<NodeFacts>>>,
    ready: bool,
}

#[derive(Clone, Debug)]
struct Known {
    facts: NodeFacts,
    /// Since when its kubelet has not been heard of.
    silent_since: Option<Timestamp>,
}

impl Nodes {
    /// Takes in what the watch says; tells whom it concerns.
    pub(super) fn hear(&self, event: Event<Node>) -> Concerns {
        let mut state = self.lock();
        let concerns = match event {
            Event::Init => {
                state.listed.clear();
                Concerns::Nobody
            }
            Event::InitApply(node) => {
                let known = Known::of(&node);
                state.listed.insert(known.facts.name.clone(), known);
                Concerns::Nobody
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut state.listed);
                let before = std::mem::replace(&mut state.known, listed);
                state.ready = true;
                state.listed_at = Some(Timestamp::now());
                let gone: Vec<String> = before.into_keys().filter(|name| !state.known.contains_key(name)).collect();
                let State { known, absent, .. } = &mut *state;
                absent.retain(|name, _| !known.contains_key(name));
                let concerns = if gone.is_empty() { Concerns::Unplaced } else { Concerns::Everybody };
                gone.into_iter().for_each(|name| state.lose(name));
                concerns
            }
            Event::Apply(node) => {
                let known = Known::of(&node);
                state.absent.remove(&known.facts.name);
                let before = state.known.insert(known.facts.name.clone(), known.clone());
                let changed = before.is_none_or(|before| {
                    before.facts != known.facts || before.silent_since.is_some() != known.silent_since.is_some()
                });
                if changed { Concerns::Unplaced } else { Concerns::Nobody }
            }
            Event::Delete(node) => {
                let name = node.metadata.name.unwrap_or_default();
                state.known.remove(&name);
                state.lose(name);
                Concerns::Everybody
            }
        };
        if concerns != Concerns::Nobody {
            state.all = None;
        }
        concerns
    }

    /// The facts of all nodes.
    pub(super) fn facts(&self) -> Arc<Vec<NodeFacts>> {
        let mut state = self.lock();
        if let Some(all) = &state.all {
            return Arc::clone(all);
        }
        let mut facts: Vec<NodeFacts> = state.known.values().map(|known| known.facts.clone()).collect();
        facts.sort_by(|a, b| a.name.cmp(&b.name));
        let facts = Arc::new(facts);
        state.all = Some(Arc::clone(&facts));
        facts
    }

    /// What is known of a node. One that is gone, or silent for too long, is lost.
    pub(super) fn state(&self, name: &str, now: Timestamp) -> NodeState {
        let mut state = self.lock();
        if !state.ready {
            return NodeState::default();
        }
        let Some(known) = state.known.get(name) else {
            let is_fresh = state.listed_at.is_some_and(|at| now.as_second() - at.as_second() < FRESH_SECONDS);
            let since = *state.absent.entry(name.to_owned()).or_insert(if is_fresh { long_before(now) } else { now });
            return NodeState { is_lost: is_long(since, now), xid: None };
        };
        let is_silent = known.silent_since.is_some_and(|since| is_long(since, now));
        NodeState { is_lost: is_silent, xid: known.facts.xid }
    }

    /// Whether some node is silent, or not there yet: then time alone changes what is true.
    pub(super) fn any_silent(&self) -> bool {
        let (state, now) = (self.lock(), Timestamp::now());
        let silent = state.known.values().any(|known| known.silent_since.is_some());
        silent || state.absent.values().any(|since| !is_long(*since, now))
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

impl State {
    /// A node that was there is gone.
    fn lose(&mut self, name: String) {
        let now = Timestamp::now();
        // Names are used once in some clouds; of those that went long ago no pod is left.
        self.absent.retain(|_, since| now.as_second() - since.as_second() < FORGOTTEN_SECONDS);
        self.absent.insert(name, long_before(now));
    }
}

/// So long before that what is so since then counts as lost.
fn long_before(now: Timestamp) -> Timestamp {
    now.checked_sub(SignedDuration::from_secs(LOST_SECONDS)).unwrap_or(now)
}

/// Whether what is so since then counts as lost.
fn is_long(since: Timestamp, now: Timestamp) -> bool {
    now.as_second() - since.as_second() >= LOST_SECONDS
}

impl Known {
    fn of(node: &Node) -> Known {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        // Unknown: the node's controller has not heard of the kubelet. A kubelet that says False can be reached.
        let silent = conditions.into_iter().find(|one| one.type_ == "Ready" && one.status == "Unknown");
        let silent_since =
            silent.map(|one| one.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0));
        Known { facts: NodeFacts::of(node), silent_since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node
    }

    #[test]
    fn a_node_that_was_there_is_lost_at_once_and_one_not_heard_of_yet_after_a_while() {
        let nodes = Nodes::default();
        let after = |seconds| Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).unwrap();
        let (now, later) = (after(2 * FRESH_SECONDS), after(2 * FRESH_SECONDS + LOST_SECONDS));
        for event in [Event::Init, Event::InitApply(node("a")), Event::InitDone] {
            nodes.hear(event);
        }
        assert!(nodes.state("went", Timestamp::now()).is_lost, "a fresh list lacks it");
        assert!(!nodes.state("a", now).is_lost && !nodes.state("new", now).is_lost);
        assert!(nodes.any_silent(), "that time passes tells of the new one");
        assert!(nodes.state("new", later).is_lost);
        nodes.hear(Event::Apply(node("new")));
        assert!(!nodes.state("new", later).is_lost && !nodes.any_silent());

        nodes.hear(Event::Delete(node("a")));
        assert!(nodes.state("a", Timestamp::now()).is_lost && !nodes.any_silent());
        for event in [Event::Init, Event::InitApply(node("a")), Event::InitDone] {
            nodes.hear(event);
        }
        assert!(!nodes.state("a", later).is_lost);
        assert!(nodes.state("new", Timestamp::now()).is_lost, "the list lacks it");
    }
}
