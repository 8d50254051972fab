//! One look at one endpoint: observe, decide, act, as for jobs. It writes nothing where nothing has changed.
//!
//! ```text
//!  watches of Deployments, Services, budgets, autoscalers ─► cache ─┐
//!  the watch of pods ─► cache (servers)                             ├─► look ─► decide ─► act
//!  polls of a pod that answers ─────────────────────────────────────┘
//! ```

mod act;
mod cache;
mod state;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use crds::ModelEndpoint;
use crds::contract::{Cause, labels};
use crds::infrastructure::Device;
use crds::reasons::{condition, reason};
use crds::status::{ModelEndpointStatus, bounded};
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::runtime::WatchStreamExt;
use kube::runtime::controller::Action;
use kube::runtime::watcher::{Config, watcher};
use serde::de::DeserializeOwned;

use self::cache::Cache;
pub(super) use self::state::Endpoints;
use self::state::{Known, Seen, seen};
use super::act::ActError;
use super::context::{Context, lock};
use super::pods::Owner;
use super::reconcile::{LOOK_AGAIN, backoff};
use super::{Wakes, api};
use crate::decide::endpoint::decide;
use crate::observe::Obstacle;
use crate::observe::endpoint::{Choice, Rollout, Server, World};
use crate::placement::{self, Placed, Request, Why};

/// The kind of an endpoint.
pub(super) const KIND: &str = "ModelEndpoint";

/// Looks at an endpoint, and does what there is to do.
///
/// # Errors
/// A write failed; the endpoint is looked at again.
pub(super) async fn reconcile(endpoint: Arc<ModelEndpoint>, context: Arc<Context>) -> Result<Action, ActError> {
    let owner = Owner::named(endpoint.as_ref());
    if endpoint.metadata.deletion_timestamp.is_some() {
        context.forget_endpoint(&owner);
        return Ok(Action::await_change());
    }
    let known = context.recall_endpoint(&endpoint, &owner);
    let generation = endpoint.metadata.generation.unwrap_or_default();
    // On the heap: it is large, and stacks are small.
    let result = Box::pin(look(&endpoint, &context, &owner, known.clone())).await;
    context.telemetry.reconciled(KIND, result.as_ref().err().map_or("ok", ActError::category));
    match &result {
        // What was refused is tried again, less and less often.
        Ok(_) if known.refused.is_some() => context.endpoints.change(&owner.uid, |known| known.refused = None),
        Ok(_) => context.endpoints.change(&owner.uid, |known| known.errors = 0),
        Err(error) => {
            tracing::warn!(kind = KIND, namespace = owner.namespace, name = owner.name, %error, "will try again");
            let rejected = error.invalid();
            context.endpoints.change(&owner.uid, |known| {
                known.errors += 1;
                known.rejected = rejected.map(|why| (generation, why)).or(known.rejected.take());
                known.refused = error.told(known.errors);
            });
        }
    }
    if !lock(&context.endpoints.known).contains_key(&owner.uid) || context.endpoints.is_gone(&owner) {
        // It went while it was looked at, or as that began: what that look has left goes too.
        context.forget_endpoint(&owner);
    }
    result
}

async fn look(
    endpoint: &ModelEndpoint,
    context: &Context,
    owner: &Owner,
    mut known: Known,
) -> Result<Action, ActError> {
    // The status keeps whole seconds: a decision on a status that was read is the one on the status that was written.
    let now = context.clock.second();
    let actor = context.actor();
    let read;
    let endpoint = match known.is_unsure {
        true => {
            let there = actor.read_endpoint(owner).await?.filter(|there| there.metadata.deletion_timestamp.is_none());
            // It is gone, and what belongs to it goes with it: the watch will tell.
            let Some(there) = there else { return Ok(Action::await_change()) };
            actor.rollout(&context.endpoints.seen, owner).await?;
            let Some(reread) = context.reread_endpoint(&there, owner) else { return Ok(Action::await_change()) };
            known = reread;
            read = there;
            &read
        }
        false => endpoint,
    };
    let start = Instant::now();
    let mut world = context.world_of(endpoint, owner, &known);
    let (mut plan, mut placed) = (decide(&world, now), None);
    if plan.asks_place {
        let found = place(endpoint, context);
        world.place = Some(found.as_ref().map(choice).map_err(Clone::clone));
        (plan, placed) = (decide(&world, now), found.ok());
    }
    if plan.roll.is_some() {
        world.rollout = actor.rollout(&context.endpoints.seen, owner).await?;
        plan = decide(&world, now);
    }
    context.telemetry.decided(start.elapsed());
    if known.refused.is_none() {
        actor.endpoint(&context.endpoints.seen, &plan, placed.as_ref(), endpoint, owner).await?;
    }
    if let Some(status) = &plan.status {
        let answer = actor.endpoint_status(status, known.version.as_ref(), owner).await;
        context.endpoints.change(&owner.uid, |known| known.is_unsure = answer.is_err());
        let version = answer?;
        context.tell_endpoint(owner, &known, status);
        context.endpoints.change(&owner.uid, |known| (known.status, known.version) = (status.clone(), version));
    }
    context.news.spread(&plan.events, &endpoint.object_ref(&()));
    let status = plan.status.as_ref().unwrap_or(&known.status);
    follow(context, owner, &world, status);
    Ok(again(context, owner, &world, status, &known))
}

/// When to look again even if nothing is heard until then.
fn again(context: &Context, owner: &Owner, world: &World, status: &ModelEndpointStatus, known: &Known) -> Action {
    let blocked = status.conditions.iter().find(|one| one.type_ == condition::SCHEDULABLE && one.status == "False");
    context.note_unplaced(owner, blocked.is_some());
    let for_model = blocked.is_some_and(|blocked| blocked.reason == reason::WAITING_FOR_MODEL);
    let soon = (for_model || world.endpoint.follows).then_some(LOOK_AGAIN);
    let again = known.refused.is_some().then(|| backoff(known.errors));
    match [soon, again].into_iter().flatten().min() {
        Some(time) => Action::requeue(time),
        None => Action::await_change(),
    }
}

/// Asks a pod of the revision that answers what it computes on, and which model it has.
fn follow(context: &Context, owner: &Owner, world: &World, status: &ModelEndpointStatus) {
    let answers = |server: &&Server| server.is_ready && server.revision == status.revision;
    let address = world.servers.iter().find(answers).and_then(|server| server.address.clone());
    match address {
        Some(address) => context.endpoints.polls.ask(owner, &BTreeMap::from([(0, address)])),
        None => context.endpoints.polls.forget(&owner.uid),
    }
}

/// Where a new revision would go, or why nowhere.
fn place(endpoint: &ModelEndpoint, context: &Context) -> Result<Placed, Obstacle> {
    let request = Request {
        autoscaled: context.settings.autoscaled,
        ..Request::apart(&endpoint.spec.infrastructure, &[], endpoint.spec.replicas)
    };
    let nodes = context.nodes.as_ref().map(|nodes| nodes.facts());
    let placed = placement::place(&request, nodes.as_deref().map(Vec::as_slice), &context.settings.catalogue);
    placed.map_err(|refusal| Obstacle {
        reason: refusal.reason().to_owned(),
        message: refusal.text(),
        fails_by: (refusal.why == Why::BadSpec).then_some(Cause::BadSpec),
    })
}

fn choice(placed: &Placed) -> Choice {
    Choice {
        device: if placed.device == Device::Gpu { Device::Gpu } else { Device::Cpu },
        runtime: placed.runtime.clone(),
        gpus: placed.resource.as_ref().map_or(0, |(_, each)| *each),
        reason: bounded(&placed.reason),
    }
}

/// How long to wait after an error, by the number of errors in a row.
pub(super) fn after_error(endpoint: &Arc<ModelEndpoint>, error: &ActError, context: &Arc<Context>) -> Action {
    let uid = endpoint.metadata.uid.clone().unwrap_or_default();
    let errors = lock(&context.endpoints.known).get(&uid).map_or(0, |known| known.errors);
    Action::requeue(error.wait(errors))
}

/// Watches what belongs to endpoints, for as long as it is polled.
pub(super) async fn watch(context: &Context, wakes: &Wakes) {
    let caches = &context.endpoints.seen;
    // Each goes on for ever: when one ends, all do.
    tokio::select! {
        () = watch_kind::<Deployment, _>(context, wakes, &caches.rollouts, Rollout::of) => {}
        () = watch_kind::<Service, _>(context, wakes, &caches.services, seen) => {}
        () = watch_kind::<PodDisruptionBudget, _>(context, wakes, &caches.budgets, seen) => {}
        () = watch_kind::<HorizontalPodAutoscaler, _>(context, wakes, &caches.autoscalers, seen) => {}
    }
}

async fn watch_kind<K, T: Clone>(context: &Context, wakes: &Wakes, cache: &Cache<T>, facts: impl Fn(&K) -> T)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let ours = Config::default().labels(&format!("{}={KIND}", labels::KIND));
    let events = watcher(api::<K>(context), ours).default_backoff();
    events
        .for_each(|event| {
            context.health.note(&K::plural(&()), &event);
            match event {
                Ok(event) => cache.hear(event, &facts).iter().for_each(|owner| wakes.wake(owner)),
                Err(error) => tracing::warn!(%error, kind = %K::kind(&()), "a watch of what belongs to endpoints"),
            }
            std::future::ready(())
        })
        .await;
}
