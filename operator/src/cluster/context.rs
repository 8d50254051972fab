//! What all looks at jobs share: the caches that the watches fill, what was written last for each job, and the way out.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crds::contract::Progress;
use crds::status::Phase;
use crds::{ScoringJob, TrainingJob};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::Client;
use kube::runtime::reflector::{Lookup, ObjectRef, Store};

use super::Settings;
use super::act::Actor;
use super::beside::Beside;
use super::clock::Clock;
use super::endpoint::Endpoints;
use super::health::Health;
use super::hearsay::Beginnings;
use super::kind::Kind;
use super::lanes::Lanes;
use super::lease::Fence;
use super::news::{News, Untold};
use super::nodes::{Concerns, Nodes};
use super::pods::{Owner, Pods, version as number};
use super::progress::Polls;
use super::telemetry::Telemetry;
use crate::build::pod::Claim;
use crate::observe::pod::NodeState;
use crate::observe::{Attempt, Job, Ledger, Member, Origin, Stage};

/// What all looks at jobs share.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) news: News,
    pub(super) lanes: Lanes,
    /// Closed while another operator leads.
    pub(super) fence: Fence,
    pub(super) health: Health,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) beginnings: Beginnings,
    pub(super) pods: Pods,
    /// `None` where the operator may not read nodes.
    pub(super) nodes: Option<Nodes>,
    pub(super) polls: Polls<Progress>,
    pub(super) trainings: Store<TrainingJob>,
    pub(super) scorings: Store<ScoringJob>,
    pub(super) endpoints: Endpoints,
    pub(super) telemetry: std::sync::Arc<Telemetry>,
    pub(super) jobs: Mutex<HashMap<String, Remembered>>,
    pub(super) unplaced: Mutex<HashSet<Owner>>,
}

/// What was written last for a job. It is newer than what the watch has told, and nobody else writes it.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    pub(super) owner: Owner,
    pub(super) ledger: Ledger,
    /// Until when its time has been counted by this operator, which it is at each look, and when figures are asked for.
    pub(super) counted: Instant,
    /// The GPUs that its pods had on their nodes then.
    pub(super) gpus: f64,
    /// Since when this operator knows it.
    pub(super) known_since: Timestamp,
    /// The status that it stands in.
    pub(super) written: Written,
    /// Whether the last write of the status was not answered: what stands in it has to be read.
    pub(super) is_unsure: bool,
    /// What is to be told if it has taken effect.
    pub(super) untold: Option<Box<Untold>>,
    /// Whether all that is known of it is what a watch has told, while somebody else may have worked on it since; or what the watch has
    /// told is older than what was read.
    pub(super) is_hearsay: bool,
    /// The newest generation of its spec that was told or read.
    pub(super) generation: i64,
    /// What the API server said of a pod that it will never take.
    pub(super) rejected: Option<String>,
    /// What it said of one that it does not take now. It is told, and then tried again.
    pub(super) refused: Option<String>,
    /// The attempt whose Service was made last, and not deleted since.
    pub(super) connected: Option<u32>,
    /// What the gang has beside its pods.
    pub(super) beside: Beside,
    /// Errors in a row.
    pub(super) errors: u32,
}

/// Why there is no model of a TrainingJob, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoModel {
    /// It may come.
    Yet(String),
    /// It will never come.
    Ever(String),
}

/// A status that was written.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// Its conditions: one that still holds keeps its time.
    pub(super) conditions: Vec<Condition>,
    /// The resource version of the job since then.
    pub(super) version: Option<String>,
}

impl Written {
    /// Takes in that the watch has told of a version. Resource versions of one resource grow.
    fn saw(&mut self, version: Option<&String>) {
        if number(version) > number(self.version.as_ref()) {
            self.version = version.cloned();
        }
    }
}

impl Remembered {
    /// Takes in the version and the generation that it was told or read at.
    fn saw(&mut self, metadata: &ObjectMeta) {
        self.written.saw(metadata.resource_version.as_ref());
        let generation = metadata.generation.unwrap_or_default();
        self.is_hearsay |= generation < self.generation;
        self.generation = self.generation.max(generation);
    }

    /// Counts the time that has passed since it was counted last. What comes after an end is nobody's.
    fn count(&mut self, telemetry: &Telemetry) {
        let passed = std::mem::replace(&mut self.counted, Instant::now()).elapsed().as_secs_f64();
        if !self.ledger.phase.is_terminal() {
            telemetry.passed(&self.owner.kind, phase(&self.ledger), passed);
            telemetry.used(&self.owner.namespace, passed * self.gpus);
        }
    }
}

impl Context {
    /// What carries plans out.
    pub(super) fn actor(&self) -> Actor<'_> {
        Actor {
            client: &self.client,
            pods: &self.pods,
            lanes: &self.lanes,
            fence: &self.fence,
            telemetry: &self.telemetry,
        }
    }

    /// What is remembered of a job; of one that is new to us, what its status tells.
    pub(super) fn recall<K: Kind>(&self, job: &K, owner: &Owner) -> Remembered {
        let mut jobs = lock(&self.jobs);
        let known = jobs.entry(owner.uid.clone()).or_insert_with(|| {
            let status = job.status().cloned().unwrap_or_default();
            let ledger = Ledger::of(&status);
            let written = Written { conditions: status.conditions, version: None };
            // What is newer and has no status is nobody's but ours.
            let is_hearsay = job.status().is_some() || self.beginnings.is_older(job);
            Remembered {
                owner: owner.clone(),
                ledger,
                counted: Instant::now(),
                gpus: 0.0,
                known_since: self.clock.second(),
                written,
                is_unsure: false,
                untold: None,
                is_hearsay,
                generation: 0,
                rejected: None,
                refused: None,
                connected: None,
                beside: Beside::default(),
                errors: 0,
            }
        });
        known.saw(job.meta());
        known.clone()
    }

    /// Takes in a job that was read: nothing is newer. Tells also what its status tells that was not answered when it was written.
    /// `None` of one that was forgotten meanwhile.
    pub(super) fn reread<K: Kind>(&self, job: &K, owner: &Owner) -> Option<(Remembered, Option<Box<Untold>>)> {
        let status = job.status().cloned().unwrap_or_default();
        let (ledger, version) = (Ledger::of(&status), job.meta().resource_version.clone());
        let mut jobs = lock(&self.jobs);
        let known = jobs.get_mut(&owner.uid)?;
        known.count(&self.telemetry);
        known.ledger = ledger;
        known.written = Written { conditions: status.conditions, version };
        (known.is_unsure, known.is_hearsay) = (false, false);
        let untold = known.untold.take().filter(|untold| untold.is_written(job));
        known.saw(job.meta());
        Some((known.clone(), untold))
    }

    pub(super) fn change(&self, uid: &str, change: impl FnOnce(&mut Remembered)) {
        if let Some(known) = lock(&self.jobs).get_mut(uid) {
            change(known);
        }
    }

    pub(super) fn errors(&self, uid: &str) -> u32 {
        lock(&self.jobs).get(uid).map_or(0, |known| known.errors)
    }

    /// Whether a job was forgotten while it was looked at.
    pub(super) fn has_forgotten(&self, uid: &str) -> bool {
        !lock(&self.jobs).contains_key(uid)
    }

    /// Whether the owner of a pod is no longer there; another job of its name may be.
    pub(super) fn is_gone(&self, owner: &Owner) -> bool {
        fn lacks<K: Kind>(store: &Store<K>, owner: &Owner) -> bool {
            let there = store.get(&ObjectRef::new(&owner.name).within(&owner.namespace));
            is_filled(store) && there.is_none_or(|job| job.meta().uid.as_ref() != Some(&owner.uid))
        }
        match owner.kind.as_str() {
            "TrainingJob" => lacks(&self.trainings, owner),
            _ => lacks(&self.scorings, owner),
        }
    }

    /// Forgets a job that is gone, or no longer ours.
    pub(super) fn forget(&self, owner: &Owner) {
        if let Some(mut known) = lock(&self.jobs).remove(&owner.uid) {
            known.count(&self.telemetry);
        }
        lock(&self.unplaced).remove(owner);
        self.pods.forget_job(owner);
        self.polls.forget(&owner.uid);
    }

    /// The jobs of a kind that are remembered.
    pub(super) fn remembered(&self, kind: &str) -> Vec<Owner> {
        let jobs = lock(&self.jobs);
        jobs.values().map(|known| &known.owner).filter(|owner| owner.kind == kind).cloned().collect()
    }

    /// Counts what a written ledger changes, and the attempts that have ended by it.
    /// Each pod has so many GPUs if it has any.
    pub(super) fn tell(&self, owner: &Owner, before: &Ledger, after: &Ledger, ended: &[Attempt], job: &Job, each: u32) {
        if before.phase != after.phase {
            self.change(&owner.uid, |known| known.count(&self.telemetry));
            tracing::info!(
                kind = owner.kind, namespace = owner.namespace, name = owner.name,
                phase = ?after.phase, message = after.message, "the job moved"
            );
        }
        let of_gang = gpus(after, each) * f64::from(job.gang_size);
        for attempt in ended {
            let saved = self.polls.saved(&owner.uid, attempt.number);
            self.telemetry.ended(&owner.kind, &owner.namespace, attempt, of_gang, saved);
        }
        for (number, gang) in &after.gangs {
            let ran = before.gangs.get(number).is_some_and(|old| old.stage == Stage::Running);
            if gang.stage == Stage::Running && !ran {
                let seconds = self.clock.now().as_second() - gang.since.as_second();
                self.telemetry.started(seconds.max(0) as f64);
            }
        }
    }

    /// Notes the GPUs that a job's pods have on their nodes: each so many if it has any.
    pub(super) fn note_gpus(&self, owner: &Owner, ledger: &Ledger, members: &[Member], each: u32) {
        let placed = members.iter().filter(|member| member.is_live() && member.node.is_some()).count();
        let gpus = placed as f64 * gpus(ledger, each);
        self.change(&owner.uid, |known| {
            known.count(&self.telemetry);
            known.gpus = gpus;
        });
    }

    /// The operator's figures, those that grow with time as of now.
    pub(super) fn figures(&self) -> String {
        let mut standing = self.endpoints.count(&self.telemetry);
        let mut namespaces = HashSet::new();
        for known in lock(&self.jobs).values_mut() {
            known.count(&self.telemetry);
            namespaces.insert(known.owner.namespace.clone());
            standing.push((known.owner.kind.clone(), phase(&known.ledger)));
        }
        self.telemetry.retire(&namespaces, Instant::now());
        self.telemetry.text(standing)
    }

    /// The model that a TrainingJob has left, or why there is none.
    pub(super) fn model_of(&self, namespace: &str, name: &str) -> Result<Origin, NoModel> {
        let Some(job) = self.trainings.get(&ObjectRef::new(name).within(namespace)) else {
            let message = format!("waits for the TrainingJob {name}: there is none of this name in the namespace");
            return Err(NoModel::Yet(message));
        };
        let phase = job.status.as_ref().map_or(Phase::Pending, |status| status.job.phase);
        match (phase, job.status.as_ref().and_then(|status| status.model.as_ref())) {
            (Phase::Succeeded, Some(model)) => {
                let known = job.status.as_ref().and_then(|status| Ledger::of(&status.job).model);
                let claims = Claim::of_data(&job.spec, &known.map(|model| model.claims).unwrap_or_default());
                Ok(Origin { training_job: name.to_owned(), uri: model.uri.clone(), claims })
            }
            // One of its name may follow it.
            _ if job.metadata.deletion_timestamp.is_some() => {
                Err(NoModel::Yet(format!("waits for the TrainingJob {name}: that of this name is being deleted")))
            }
            (Phase::Succeeded, None) => {
                Err(NoModel::Ever(format!("the TrainingJob {name} is done and has left no model")))
            }
            (Phase::Failed, _) => Err(NoModel::Ever(format!(
                "the TrainingJob {name}, whose model this job needs, has failed: see to that one, then create both anew"
            ))),
            (phase, _) => {
                Err(NoModel::Yet(format!("waits for the model of the TrainingJob {name}, which is {phase:?}")))
            }
        }
    }

    /// Notes whether a job waits for a place: it is looked at again when the nodes change.
    pub(super) fn note_unplaced(&self, owner: &Owner, waits: bool) {
        let mut unplaced = lock(&self.unplaced);
        if waits {
            unplaced.insert(owner.clone())
        } else {
            unplaced.remove(owner)
        };
    }

    /// The jobs that a change of the nodes may concern: those without a place; and all that have pods where a node may be
    /// gone or silent.
    pub(super) fn woken_by_nodes(&self, concerns: Concerns) -> Vec<Owner> {
        let with_pods = match concerns {
            Concerns::Nobody => return Vec::new(),
            Concerns::Unplaced => Vec::new(),
            Concerns::Everybody => self.pods.owners(),
        };
        lock(&self.unplaced).iter().cloned().chain(with_pods).collect()
    }

    /// What is known of a node: `None` where it is not there, or the watch has not told of it yet. Where nodes are not read, all
    /// are taken to be well.
    pub(super) fn node(&self, name: &str, now: Timestamp) -> Option<NodeState> {
        self.nodes.as_ref().map_or(Some(NodeState::default()), |nodes| nodes.state(name, now))
    }

    /// Whether a member lives on a node that is silent and will count as lost if it stays so.
    pub(super) fn is_one_fading(&self, members: &[Member], now: Timestamp) -> bool {
        let Some(nodes) = &self.nodes else { return false };
        let live = members.iter().filter(|member| member.is_live());
        live.filter_map(|member| member.node.as_deref()).any(|node| nodes.is_fading(node, now))
    }

    /// Whether what a look rests on is there: the first lists of pods and nodes.
    pub(super) fn is_ready(&self) -> bool {
        self.pods.is_ready() && self.nodes.as_ref().is_none_or(Nodes::is_ready)
    }

    /// Whether the operator can do its work, or is ready to take over; or what it waits for.
    pub(super) fn readiness(&self) -> Result<&'static str, String> {
        if self.fence.stands_by() {
            return Ok("stands by: another operator leads");
        }
        if self.fence.left().is_none() {
            return Err("waits for the lease".to_owned());
        }
        if let Some(watch) = self.health.blind(Instant::now()) {
            return Err(format!("the watch of {watch} fails again and again: the log says why"));
        }
        let stores = is_filled(&self.trainings) && is_filled(&self.scorings) && is_filled(&self.endpoints.store);
        match self.is_ready() && self.endpoints.is_ready() && stores {
            true => Ok("ok"),
            false => Err("the first lists of the watches are not in yet".to_owned()),
        }
    }
}

pub(super) fn is_filled<K>(store: &Store<K>) -> bool
where
    K: Lookup + Clone + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    futures::FutureExt::now_or_never(store.wait_until_ready()).is_some()
}

/// The GPUs of each pod where the job was placed, by those of a pod that has any. The placement tells those of all that lived at a time
/// then, which `parallelism` may have changed since.
fn gpus(ledger: &Ledger, each: u32) -> f64 {
    let has_any = ledger.placement.as_ref().is_some_and(|placement| placement.gpus > 0);
    if has_any { f64::from(each) } else { 0.0 }
}

fn phase(ledger: &Ledger) -> String {
    format!("{:?}", ledger.phase)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under it is one insertion or removal: a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use crds::status::Placement;

    use super::*;

    #[test]
    fn a_pod_has_its_gpus_however_many_others_lived_when_the_job_was_placed() {
        let placed = |gpus| Ledger { placement: Some(Placement { gpus, ..Placement::default() }), ..Ledger::default() };
        let of_pod = |ledger| gpus(&ledger, 2);
        assert_eq!([placed(2), placed(64), placed(0), Ledger::default()].map(of_pod), [2.0, 2.0, 0.0, 0.0]);
    }
}
