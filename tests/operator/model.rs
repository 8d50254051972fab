//! The API server of the million decisions is a model. Here it is held against a real one: the same random writes to both, and
//! after each of them the same pods, and in the end the same tale of the watch.

use std::collections::BTreeMap;
use std::pin::pin;

use futures::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions, WatchParams};
use kube::core::WatchEvent;
use kube::{Api, ResourceExt};
use operator::decide::How;
use operator::observe::{Backoff, End, Job, Ledger, Member, MemberId, MemberState};
use serde_json::json;
use tests::cluster::{Cluster, Namespace};

#[allow(dead_code, reason = "a history here needs no other kind of throw")]
#[path = "../../operator/src/decide/tests/interleavings/dice.rs"]
mod dice;
#[allow(dead_code, unused_imports, reason = "statuses are held against the real ones in premises.rs")]
#[path = "../../operator/src/decide/tests/interleavings/server.rs"]
mod server;

use dice::Dice;
use server::Server;

/// Histories, and the writes of each.
const HISTORIES: u64 = 24;
const WRITES: u64 = 40;
/// Histories that are lived at the same time.
const AT_ONCE: usize = 4;

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn pending() -> MemberState {
    MemberState::Pending
}

/// A job of a gang of two.
fn job() -> Job {
    Job {
        kind: "TrainingJob".to_owned(),
        namespace: String::new(),
        name: "a".to_owned(),
        uid: String::new(),
        created: None,
        generation: 1,
        spec: 0,
        gangs: 1,
        gang_size: 2,
        parallelism: 1,
        is_auto: false,
        output: String::new(),
        suspend: false,
        elsewhere: true,
        backoff_limit: 0,
        exit_codes: None,
        active_deadline_seconds: None,
        stall_deadline_seconds: None,
        backoff: Backoff { first_seconds: 0, most_seconds: 0 },
        grace_seconds: None,
    }
}

fn name(id: MemberId) -> String {
    format!("a-t{}-{}", id.attempt, id.index)
}

/// What both sides have of a pod: its phase, and whether it is being stopped.
type Seen = (&'static str, bool);

fn seen(member: &Member) -> Seen {
    let phase = match &member.state {
        MemberState::Ended(end) if end.exit_code == Some(0) => "Succeeded",
        MemberState::Ended(_) => "Failed",
        MemberState::Running => "Running",
        _ => "Pending",
    };
    (phase, member.stopping_since.is_some())
}

fn observed(pod: &Pod) -> Seen {
    let phases = ["Pending", "Running", "Succeeded", "Failed"];
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let known = phases.into_iter().find(|known| *known == phase);
    (known.unwrap_or("another"), pod.metadata.deletion_timestamp.is_some())
}

/// The model and the real one side by side.
struct Pair<'a> {
    model: Server,
    pods: Api<Pod>,
    namespace: &'a Namespace<'a>,
    /// A node that nobody plays: nothing happens to its pods by itself.
    node: String,
    /// The UIDs of the real pods by those of the model.
    uids: BTreeMap<String, String>,
    dice: Dice,
}

impl Pair<'_> {
    /// One write, or something that a kubelet does, on both sides.
    async fn step(&mut self) {
        let id = MemberId { attempt: 1 + self.dice.below(2) as u32, index: self.dice.below(2) as u32 };
        let there = self.model.pods.get(&id).cloned();
        let is_live = there.as_ref().is_some_and(Member::is_live);
        match self.dice.below(12) {
            0..4 => self.create(id).await,
            4..6 if is_live => self.turn(id, MemberState::Running, json!({"phase": "Running"})).await,
            6 if is_live => {
                let (code, phase) = if self.dice.one_in(2) { (0, "Succeeded") } else { (137, "Failed") };
                let end = MemberState::Ended(End::from_exit(code, None, at(0)));
                self.turn(id, end, json!({"phase": phase})).await;
            }
            7..10 => {
                let graceful = [How::Gracefully, How::ByForce][self.dice.below(2)];
                let has_ended = there.as_ref().is_some_and(|pod| pod.end().is_some());
                // What was decided on an older view is sent to what has ended since.
                let how = if has_ended && self.dice.one_in(2) { How::Clear } else { graceful };
                self.stop(id, how).await;
            }
            10 if there.as_ref().is_some_and(|pod| pod.stopping_since.is_some()) => {
                if is_live {
                    self.namespace.pods().patch_status(&name(id), json!({"phase": "Failed"})).await;
                }
                self.remove(id).await;
                self.model.finish_stopping(id, 0);
                self.model.forget([id]);
            }
            11 if there.is_some() => {
                self.remove(id).await;
                self.model.lose(id);
            }
            _ => {}
        }
    }

    async fn create(&mut self, id: MemberId) {
        // Whoever takes an older attempt's place has looked for its pods.
        if self.model.overlaps(id, &job()) || self.model.pods.keys().any(|other| other.attempt > id.attempt) {
            return;
        }
        let was_there = self.model.pods.contains_key(&id);
        assert_eq!(self.model.create(id, &self.node, &job()), Ok(true));
        let pod = json!({
            "metadata": {"name": name(id)},
            "spec": {"nodeName": self.node, "containers": [{"name": "trainer", "image": "none"}]},
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        match self.pods.create(&PostParams::default(), &pod).await {
            Ok(made) => {
                assert!(!was_there, "{id:?} was made twice");
                self.uids.insert(self.model.pods[&id].uid.clone(), made.uid().expect("a UID"));
            }
            Err(kube::Error::Api(status)) if status.code == 409 => assert!(was_there, "{id:?} is there already"),
            Err(fault) => panic!("{fault}"),
        }
    }

    async fn turn(&mut self, id: MemberId, state: MemberState, status: serde_json::Value) {
        self.namespace.pods().patch_status(&name(id), status).await;
        self.model.turn(id, state);
    }

    /// Stops the pod of a UID: that which is there, or one that was there before.
    async fn stop(&mut self, id: MemberId, how: How) {
        let known: Vec<String> = self.uids.keys().cloned().collect();
        let current = self.model.pods.get(&id).map(|pod| pod.uid.clone());
        let any = if known.is_empty() { None } else { Some(known[self.dice.below(known.len())].clone()) };
        let Some(uid) = (if self.dice.one_in(3) { any } else { current.clone().or(any) }) else { return };
        let parameters = DeleteParams {
            grace_period_seconds: (how == How::ByForce).then_some(0),
            preconditions: Some(Preconditions { uid: Some(self.uids[&uid].clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        // One that was cleared away by an older view may live.
        if how == How::Clear && current.as_ref() != Some(&uid) {
            return;
        }
        match self.pods.delete(&name(id), &parameters).await {
            Ok(_) => assert_eq!(current.as_ref(), Some(&uid), "a pod of another UID was deleted"),
            Err(kube::Error::Api(status)) if status.code == 404 => assert_eq!(current, None),
            Err(kube::Error::Api(status)) if status.code == 409 => assert_ne!(current.as_ref(), Some(&uid)),
            Err(fault) => panic!("{fault}"),
        }
        self.model.stop(id, &uid, how, 0);
        self.model.forget([id]);
    }

    /// Removes a pod as its kubelet does, or a person in a hurry.
    async fn remove(&self, id: MemberId) {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.pods.delete(&name(id), &now).await.expect("it was there");
    }

    /// The pods that there are, by the model and by the real one.
    async fn sides(&self) -> (BTreeMap<String, Seen>, BTreeMap<String, Seen>) {
        let real = self.pods.list(&ListParams::default()).await.expect("a list of pods");
        (
            self.model.pods.iter().map(|(id, pod)| (name(*id), seen(pod))).collect(),
            real.iter().map(|pod| (pod.name_any(), observed(pod))).collect(),
        )
    }

    /// What the model's watch has to tell of each pod; `None` where it was deleted.
    fn modelled_tale(&self) -> BTreeMap<String, Vec<Option<Seen>>> {
        let told = self
            .model
            .untold
            .iter()
            .map(|(id, queue)| (name(*id), plain(queue.iter().map(|pod| pod.as_ref().map(seen)).collect())));
        told.collect()
    }

    /// What the real watch tells of each pod since that version, until it tells of a pod that is made for its end.
    async fn real_tale(&self, version: &str) -> BTreeMap<String, Vec<Option<Seen>>> {
        let last =
            json!({"metadata": {"name": "last"}, "spec": {"containers": [{"name": "trainer", "image": "none"}]}});
        let last: Pod = serde_json::from_value(last).expect("a pod");
        self.pods.create(&PostParams::default(), &last).await.expect("a new pod");
        let mut tale: BTreeMap<String, Vec<Option<Seen>>> = BTreeMap::new();
        let mut events = pin!(self.pods.watch(&WatchParams::default().timeout(60), version).await.expect("a watch"));
        while let Some(event) = events.next().await {
            let (pod, told) = match event.expect("an event") {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod.name_any(), Some(observed(&pod))),
                WatchEvent::Deleted(pod) => (pod.name_any(), None),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => panic!("{status:?}"),
            };
            if pod == "last" {
                break;
            }
            tale.entry(pod).or_default().push(told);
        }
        tale.into_iter().map(|(pod, told)| (pod, plain(told))).collect()
    }
}

/// A tale without what is told twice, and without the word that a pod is being stopped just before it is gone: the real watch
/// tells it also of one that goes at once.
fn plain(mut tale: Vec<Option<Seen>>) -> Vec<Option<Seen>> {
    tale.dedup();
    let goes = |at: usize| tale.get(at + 1) == Some(&None) && tale[at].is_some_and(|(_, stops)| stops);
    let kept: Vec<bool> = (0..tale.len()).map(|at| !goes(at)).collect();
    tale.into_iter().zip(kept).filter_map(|(told, kept)| kept.then_some(told)).collect()
}

async fn live(seed: u64) {
    let namespace = Cluster::shared().await.namespace("model").await;
    let pods: Api<Pod> = namespace.api();
    let version = pods.list_metadata(&ListParams::default()).await.expect("a list").metadata.resource_version;
    let (dice, node) = (Dice::of_step(seed, 0), namespace.name().to_owned());
    let mut pair = Pair { model: Server::default(), pods, namespace: &namespace, node, uids: BTreeMap::new(), dice };
    for step in 1..=WRITES {
        pair.dice = Dice::of_step(seed, step);
        pair.step().await;
        let (model, real) = pair.sides().await;
        assert_eq!(model, real, "after step {step} of history {seed}");
    }
    let real = pair.real_tale(&version.expect("a version")).await;
    assert_eq!(pair.modelled_tale(), real, "what the watch tells of history {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_of_the_million_decisions_is_what_the_api_server_is() {
    stream::iter(0..HISTORIES).map(live).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

#[test]
fn a_ledger_that_falls_back_breaks_a_promise_of_the_model() {
    let mut model = Server::default();
    assert_eq!(model.write(&Ledger { attempt: 2, ..Ledger::default() }), Ok(()));
    assert!(model.write(&Ledger { attempt: 1, ..Ledger::default() }).is_err());
}
