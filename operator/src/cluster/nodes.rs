//! The nodes as the watch has told of them: what placement asks of each, and since when one can't be reached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::Event;

use crate::observe::NodeFacts;
use crate::observe::pod::NodeState;

/// Seconds for which a node may be out of reach before its pods count as lost. The API server itself waits 40 s before it
/// says that a node is.
const LOST_SECONDS: i64 = 20;

/// Whom a change of the nodes may concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concerns {
    /// Nobody: nothing that placement or a job looks at has changed.
    Nobody,
    /// The jobs that wait for a place.
    Unplaced,
    /// All jobs: a node may be gone or silent, and with it their pods.
    Everybody,
}

/// What has become known of the nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashMap<String, Known>,
    listed: HashMap<String, Known>,
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
                let is_silent = |known: &Known| known.silent_since.is_some();
                let is_one_gone = before.keys().any(|name| !state.known.contains_key(name));
                let is_one_silent = state
                    .known
                    .iter()
                    .any(|(name, known)| is_silent(known) && !before.get(name).is_some_and(is_silent));
                if is_one_gone || is_one_silent { Concerns::Everybody } else { Concerns::Unplaced }
            }
            Event::Apply(node) => {
                let known = Known::of(&node);
                let before = state.known.insert(known.facts.name.clone(), known.clone());
                let was_silent = before.as_ref().is_some_and(|before| before.silent_since.is_some());
                if known.silent_since.is_some() != was_silent {
                    Concerns::Everybody
                } else if before.is_none_or(|before| before.facts != known.facts) {
                    Concerns::Unplaced
                } else {
                    Concerns::Nobody
                }
            }
            Event::Delete(node) => {
                state.known.remove(&node.metadata.name.unwrap_or_default());
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

    /// What is known of a node: one that is silent for too long is lost. `None` of one that the watch has not told of, or told
    /// that it is gone: which of them, and whether it is back, only the API server knows, since the watch may lag behind that of pods.
    pub(super) fn state(&self, name: &str, now: Timestamp) -> Option<NodeState> {
        let state = self.lock();
        if !state.ready {
            return Some(NodeState::default());
        }
        let known = state.known.get(name)?;
        let is_lost = known.silent_since.is_some_and(|since| is_lost(since, now));
        Some(NodeState { is_lost, is_gone: false, xid: known.facts.xid })
    }

    /// Whether a node is silent and not lost yet: then time alone changes what is true of its pods.
    pub(super) fn is_fading(&self, name: &str, now: Timestamp) -> bool {
        self.lock().known.get(name).and_then(|known| known.silent_since).is_some_and(|since| !is_lost(since, now))
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

/// Whether a node that has been silent since then counts as lost.
fn is_lost(since: Timestamp, now: Timestamp) -> bool {
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
    fn of_a_node_that_is_not_there_nothing_is_known_before_and_after() {
        let nodes = Nodes::default();
        let is_known = |name| nodes.state(name, Timestamp::now()).is_some();
        assert!(is_known("new"), "before the first list nothing is told of any");
        for event in [Event::Init, Event::InitApply(node("a")), Event::InitDone] {
            nodes.hear(event);
        }
        assert!(is_known("a") && !is_known("new"));
        assert_eq!(nodes.hear(Event::Apply(node("new"))), Concerns::Unplaced);
        assert!(is_known("new"));
        assert_eq!(nodes.hear(Event::Delete(node("a"))), Concerns::Everybody);
        assert!(!is_known("a"));
        for (event, concerns) in [
            (Event::Init, Concerns::Nobody),
            (Event::InitApply(node("a")), Concerns::Nobody),
            (Event::InitDone, Concerns::Everybody),
        ] {
            assert_eq!(nodes.hear(event), concerns);
        }
        assert!(is_known("a") && !is_known("new"), "the list lacks it");
    }

    fn silent(name: &str, since: i64) -> Node {
        let status = serde_json::json!({"conditions": [{
            "type": "Ready", "status": "Unknown", "lastTransitionTime": at(since).to_string(),
        }]});
        Node { status: serde_json::from_value(status).expect("a status"), ..node(name) }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    #[test]
    fn time_changes_what_is_true_of_a_silent_node_until_it_is_lost() {
        let nodes = Nodes::default();
        for event in [Event::Init, Event::InitApply(node("a")), Event::InitDone, Event::Apply(silent("a", 0))] {
            nodes.hear(event);
        }
        for (seconds, fades, is_lost) in [(-5, true, false), (19, true, false), (20, false, true), (9000, false, true)]
        {
            let state = nodes.state("a", at(seconds)).expect("it is there");
            assert_eq!((nodes.is_fading("a", at(seconds)), state.is_lost), (fades, is_lost), "{seconds}");
        }
        assert!(!nodes.is_fading("new", at(0)));
    }

    #[test]
    fn all_jobs_hear_of_a_node_that_falls_silent_however_late_it_is_told_and_of_one_that_is_back() {
        let nodes = Nodes::default();
        let list = |node: Node| [Event::Init, Event::InitApply(node), Event::InitDone];
        let told = |events: Vec<Event<Node>>| events.into_iter().fold(Concerns::Nobody, |_, event| nodes.hear(event));
        assert_eq!(told(list(node("a")).into()), Concerns::Unplaced);
        assert_eq!(told(vec![Event::Apply(silent("a", 0))]), Concerns::Everybody);
        assert_eq!(told(vec![Event::Apply(silent("a", 0))]), Concerns::Nobody);
        assert_eq!(told(list(silent("a", 0)).into()), Concerns::Unplaced, "that is known");
        assert_eq!(told(vec![Event::Apply(node("a"))]), Concerns::Everybody);
        assert_eq!(told(list(silent("a", 0)).into()), Concerns::Everybody);
        assert_eq!(told(vec![Event::Apply(silent("b", 0))]), Concerns::Everybody, "a new one");
    }
}
