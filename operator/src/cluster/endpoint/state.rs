//! What all looks at endpoints share: what the watches have told, what was written last for each, and the world that a decision
//! rests on.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use crds::ModelEndpoint;
use crds::contract::{Cause, Serving};
use crds::reasons::reason;
use crds::status::{ModelEndpointStatus, Phase, bounded};
use kube::Resource;
use kube::runtime::reflector::{ObjectRef, Store};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::context::{Context, lock};
use super::super::pods::{Owner, version as number};
use super::super::progress::Polls;
use super::super::telemetry::Telemetry;
use super::KIND;
use super::cache::{Cache, Servers};
use crate::build::endpoint::{autoscaler, budget, service};
use crate::observe::Obstacle;
use crate::observe::endpoint::{Endpoint, Part, Parts, Rollout, Trained, World, balancer};

/// What the watches have told of what belongs to endpoints.
#[derive(Default)]
pub(in crate::cluster) struct Seen {
    pub(in crate::cluster) servers: Servers,
    pub(super) rollouts: Cache<Rollout>,
    pub(super) services: Cache<Value>,
    pub(super) budgets: Cache<Value>,
    pub(super) autoscalers: Cache<Value>,
}

/// What all looks at endpoints share.
pub(in crate::cluster) struct Endpoints {
    pub(in crate::cluster) seen: Seen,
    pub(in crate::cluster) store: Store<ModelEndpoint>,
    pub(in crate::cluster) polls: Polls<Serving>,
    pub(super) known: Mutex<HashMap<String, Known>>,
}

/// What was written last for an endpoint. It is newer than what the watch has told, and nobody else writes it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    owner: Owner,
    pub(super) status: ModelEndpointStatus,
    /// The resource version of the endpoint since then.
    pub(super) version: Option<String>,
    /// Until when its time has been counted by this operator.
    counted: Instant,
    /// Whether it has to be read: the last write of the status was not answered; or all that is known of it is what a watch has told,
    /// while somebody else may have worked on it since; or what the watch has told is older than what was read.
    pub(super) is_unsure: bool,
    /// The newest generation of its spec that was told or read.
    pub(super) generation: i64,
    /// What the API server said of an object that it will never take, and the generation of the spec that it was made of.
    pub(super) rejected: Option<(i64, String)>,
    /// What it said of one that it does not take now. It is told, and then tried again.
    pub(super) refused: Option<String>,
    /// Errors in a row.
    pub(super) errors: u32,
}

impl Known {
    /// Takes in the version and the generation that it was told or read at.
    fn saw(&mut self, endpoint: &ModelEndpoint) {
        let told = endpoint.metadata.resource_version.as_ref();
        if number(told) > number(self.version.as_ref()) {
            self.version = told.cloned();
        }
        let generation = endpoint.metadata.generation.unwrap_or_default();
        self.is_unsure |= generation < self.generation;
        self.generation = self.generation.max(generation);
    }

    fn count(&mut self, telemetry: &Telemetry) {
        let passed = std::mem::replace(&mut self.counted, Instant::now()).elapsed().as_secs_f64();
        telemetry.passed(KIND, format!("{:?}", self.status.phase), passed);
    }
}

/// An object as it is compared with what is wished.
pub(super) fn seen<K: Serialize>(object: &K) -> Value {
    let mut value = json!(object);
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    value
}

impl Endpoints {
    pub(in crate::cluster) fn new(store: Store<ModelEndpoint>, polls: Polls<Serving>) -> Endpoints {
        Endpoints { seen: Seen::default(), store, polls, known: Mutex::default() }
    }

    /// Whether what a look rests on is there, pods apart.
    pub(in crate::cluster) fn is_ready(&self) -> bool {
        let seen = &self.seen;
        seen.rollouts.is_ready()
            && [&seen.services, &seen.budgets, &seen.autoscalers].iter().all(|cache| cache.is_ready())
    }

    /// The owner of a pod by the endpoint's namespace and name.
    pub(in crate::cluster) fn owner(&self, (namespace, name): &(String, String)) -> Owner {
        let there = self.store.get(&ObjectRef::new(name).within(namespace));
        let uid = there.and_then(|endpoint| endpoint.metadata.uid.clone()).unwrap_or_default();
        Owner { kind: KIND.to_owned(), namespace: namespace.clone(), name: name.clone(), uid }
    }

    /// The endpoints that are remembered.
    pub(in crate::cluster) fn remembered(&self) -> Vec<Owner> {
        lock(&self.known).values().map(|known| known.owner.clone()).collect()
    }

    /// Counts the time that has passed for each since it was counted last; tells the kind and phase of each.
    pub(in crate::cluster) fn count(&self, telemetry: &Telemetry) -> Vec<(String, String)> {
        let mut all = lock(&self.known);
        let count = |known: &mut Known| {
            known.count(telemetry);
            (KIND.to_owned(), format!("{:?}", known.status.phase))
        };
        all.values_mut().map(count).collect()
    }

    /// Whether an endpoint is no longer there; another one of its name may be.
    pub(super) fn is_gone(&self, owner: &Owner) -> bool {
        let there = self.store.get(&ObjectRef::new(&owner.name).within(&owner.namespace));
        there.is_none_or(|endpoint| endpoint.metadata.uid.as_ref() != Some(&owner.uid))
    }

    pub(super) fn change(&self, uid: &str, change: impl FnOnce(&mut Known)) {
        if let Some(known) = lock(&self.known).get_mut(uid) {
            change(known);
        }
    }
}

impl Context {
    /// What is remembered of an endpoint; of one that is new to us, what its status tells.
    pub(super) fn recall_endpoint(&self, endpoint: &ModelEndpoint, owner: &Owner) -> Known {
        let mut all = lock(&self.endpoints.known);
        let known = all.entry(owner.uid.clone()).or_insert_with(|| {
            // What is newer and has no status is nobody's but ours.
            let is_unsure = endpoint.status.is_some() || self.beginnings.is_older(endpoint);
            let status = endpoint.status.clone().unwrap_or_default();
            Known {
                owner: owner.clone(),
                status,
                version: None,
                counted: Instant::now(),
                is_unsure,
                generation: 0,
                rejected: None,
                refused: None,
                errors: 0,
            }
        });
        known.saw(endpoint);
        known.clone()
    }

    /// Takes in an endpoint that was read: nothing is newer. `None` of one that was forgotten meanwhile.
    pub(super) fn reread_endpoint(&self, endpoint: &ModelEndpoint, owner: &Owner) -> Option<Known> {
        let mut all = lock(&self.endpoints.known);
        let known = all.get_mut(&owner.uid)?;
        known.count(&self.telemetry);
        (known.status, known.is_unsure) = (endpoint.status.clone().unwrap_or_default(), false);
        known.saw(endpoint);
        Some(known.clone())
    }

    /// Forgets an endpoint that is gone.
    pub(in crate::cluster) fn forget_endpoint(&self, owner: &Owner) {
        let uid = owner.uid.as_str();
        lock(&self.endpoints.known).remove(uid);
        let seen = &self.endpoints.seen;
        seen.rollouts.forget(uid);
        [&seen.services, &seen.budgets, &seen.autoscalers].iter().for_each(|cache| cache.forget(uid));
        lock(&self.unplaced).remove(owner);
        self.endpoints.polls.forget(uid);
    }

    /// The world of an endpoint, without its place.
    pub(super) fn world_of(&self, endpoint: &ModelEndpoint, owner: &Owner, known: &Known) -> World {
        let seen = &self.endpoints.seen;
        let wished = Endpoint::of(endpoint);
        let there = |cache: &Cache<Value>| cache.get(&owner.uid).map(|known| known.facts);
        let services = there(&seen.services);
        let parts = endpoint.controller_owner_ref(&()).map(|reference| Parts {
            service: Part::of(services.as_ref(), &json!(service(endpoint, &reference))),
            budget: Part::of(there(&seen.budgets).as_ref(), &json!(budget(endpoint, &reference))),
            autoscaler: Part::of(there(&seen.autoscalers).as_ref(), &json!(autoscaler(endpoint, &reference))),
        });
        let job = wished.model.training_job.as_ref();
        World {
            status: known.status.clone(),
            rollout: seen.rollouts.get(&owner.uid).map(|known| known.facts),
            servers: seen.servers.of(owner),
            parts: parts.unwrap_or_default(),
            balancer: services.as_ref().and_then(balancer),
            serving: self.endpoints.polls.answer(&owner.uid),
            trained: job.map(|job| self.trained(&owner.namespace, job)),
            obstacle: obstacle(endpoint, known),
            place: None,
            endpoint: wished,
        }
    }

    /// What a TrainingJob has come to.
    fn trained(&self, namespace: &str, name: &str) -> Trained {
        let Some(job) = self.trainings.get(&ObjectRef::new(name).within(namespace)) else { return Trained::Missing };
        let status = job.status.clone().unwrap_or_default();
        match (status.job.phase, status.model) {
            (Phase::Succeeded, Some(model)) => Trained::Model(model),
            (phase, _) => Trained::Without(phase),
        }
    }
}

/// Why no new revision can be made, whatever its place.
fn obstacle(endpoint: &ModelEndpoint, known: &Known) -> Option<Obstacle> {
    let obstacle = |reason: &str, message: &str, fails_by: Option<Cause>| {
        Some(Obstacle { reason: reason.to_owned(), message: bounded(message), fails_by })
    };
    let generation = endpoint.metadata.generation.unwrap_or_default();
    if let Some((_, why)) = known.rejected.as_ref().filter(|(of, _)| *of == generation) {
        let message = format!("the API server refuses what the endpoint needs: {why}");
        return obstacle(reason::BAD_SPEC, &message, Some(Cause::BadSpec));
    }
    let faults = endpoint.spec.meaning();
    let faults: Vec<String> = faults.iter().filter(|fault| fault.is_error()).map(ToString::to_string).collect();
    if !faults.is_empty() {
        return obstacle(reason::BAD_SPEC, &faults.join("; "), Some(Cause::BadSpec));
    }
    let refused = known.refused.as_ref()?;
    let message = format!("the API server takes nothing of it now: {refused}; it is tried again");
    obstacle(reason::PODS_REFUSED, &message, None)
}

impl Context {
    /// Counts what a written status changes.
    pub(super) fn tell_endpoint(&self, owner: &Owner, known: &Known, after: &ModelEndpointStatus) {
        if known.status.phase == after.phase {
            return;
        }
        self.endpoints.change(&owner.uid, |known| known.count(&self.telemetry));
        tracing::info!(
            kind = KIND, namespace = owner.namespace, name = owner.name,
            phase = ?after.phase, message = after.message, "the endpoint moved"
        );
    }
}
