//! What the API server is asked itself, since watches tell late: after a restart they may begin with a list that is old.
//!
//! A status is written over the version that it was decided on, and a pod is deleted by its UID: what rests on an old picture fails
//! there. But pods are made before the status is written, and a pod that was made, has failed and was cleared away could be made
//! again. So a job and its pods are asked for, once for each look at most:
//! - before the first thing that is done about a job from before this operator began to lead;
//! - before what is missing of an attempt that has begun is made, and before the next attempt if a pod of the job may have been made
//!   that is not known;
//! - before pods that were not heard of count as lost.
//!
//! Of a job that is newer nobody else has made anything, and its first pods are made without a question. So are those of its next
//! attempts: who has led all along knows each pod by the answer that said that it was made.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;

use super::act::{ActError, Actor};
use super::context::{Context, Remembered, lock};
use super::kind::{Controlled, Kind};
use super::news::Untold;
use super::pods::{Owner, facts_of, version};
use super::reconcile::backoff;
use crate::build::pod::labels_of;
use crate::decide::Plan;
use crate::observe::{MemberId, Stage, World};

/// Nodes that the API server is asked for at the same time.
const ASKED_AT_ONCE: usize = 8;
/// Pods of a job that come with one answer: of thousands with 20 kB each, only so many are held at a time.
const PAGE: u32 = 250;

/// The version of each kind from which on this operator leads.
#[derive(Debug, Default)]
pub(super) struct Beginnings(Mutex<HashMap<String, u128>>);

impl Beginnings {
    /// Asks for the version of a kind as it is now, until there is an answer: this operator leads, and nobody else writes any more.
    pub(super) async fn begin<K: Controlled>(&self, context: &Context, api: &Api<K>) {
        let (one, mut errors) = (ListParams::default().limit(1), 0);
        loop {
            // A list that asks for no version is as new as the API server can have it.
            let newest = api.list_metadata(&one);
            match context.actor().write("list_kind", "ask for the newest version", newest).await {
                Ok(list) => {
                    if let Some(now) = version(list.metadata.resource_version.as_ref()) {
                        lock(&self.0).insert(K::kind(&()).into_owned(), now);
                    }
                    return;
                }
                Err(error) => {
                    errors += 1;
                    tracing::warn!(%error, kind = %K::kind(&()), "will try again");
                    tokio::time::sleep(backoff(errors)).await;
                }
            }
        }
    }

    /// Whether an object is as it was before this operator led, as far as is known.
    pub(super) fn is_older<K: Controlled>(&self, object: &K) -> bool {
        let began = lock(&self.0).get(&*K::kind(&())).copied();
        began.is_none_or(|began| version(object.meta().resource_version.as_ref()).is_none_or(|told| told <= began))
    }
}

/// A job by the API server's own word.
pub(super) struct Asked<K> {
    pub(super) job: K,
    pub(super) known: Remembered,
    /// What its status tells that was not answered when it was written.
    pub(super) untold: Option<Box<Untold>>,
}

/// Whether what is to be done asks for the API server's own word. Pods of the job `are_doubted` if some may have been made that are not
/// known.
pub(super) fn asks(world: &World, plan: &Plan, known: &Remembered, are_doubted: bool) -> bool {
    known.is_hearsay && !plan.is_empty() || makes_again(world, plan, are_doubted) || lacks(world)
}

/// Whether a plan may start what was there before: what is missing of an attempt that has begun, or the next one while pods of the
/// last may not be known.
fn makes_again(world: &World, plan: &Plan, are_doubted: bool) -> bool {
    plan.start.iter().any(|id| {
        let gang = world.ledger.gangs.get(&world.job.gang_of(id.index));
        id.attempt > 1 && are_doubted || gang.is_some_and(|gang| gang.attempt == id.attempt)
    })
}

/// Whether a gang that runs lacks a member: those that were not heard of yet look like those that are lost.
fn lacks(world: &World) -> bool {
    if world.ledger.phase.is_terminal() {
        return false;
    }
    let there: BTreeSet<MemberId> = world.members.iter().map(|member| member.id).collect();
    let mut running = world.ledger.gangs.iter().filter(|(_, gang)| gang.stage == Stage::Running);
    running.any(|(number, gang)| {
        let mut members = world.job.members_of(*number);
        members.any(|index| !there.contains(&MemberId { attempt: gang.attempt, index }))
    })
}

/// The job and its pods by the API server's own word, which is taken in; `None` if the job is gone, or on its way: its pods, which go
/// with it, are not lost. The pods come second: they are no older than the status that tells of them.
pub(super) async fn ask<K: Kind>(
    context: &Context,
    actor: &Actor<'_>,
    owner: &Owner,
) -> Result<Option<Asked<K>>, ActError> {
    let there = actor.read::<K>(owner).await?.filter(|job| job.meta().deletion_timestamp.is_none());
    let Some(there) = there else { return Ok(None) };
    pods_now(context, actor, owner).await?;
    Ok(context.reread(&there, owner).map(|(known, untold)| Asked { job: there, known, untold }))
}

/// Takes in the pods of a job as they are.
async fn pods_now(context: &Context, actor: &Actor<'_>, owner: &Owner) -> Result<(), ActError> {
    let labels = labels_of(&owner.kind, &owner.name);
    let labels = labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &owner.namespace);
    let mut page = ListParams::default().labels(&labels).limit(PAGE);
    let (mut pods, mut at) = (Vec::new(), None);
    loop {
        let listed = actor.write("list_pods", "list the pods of the job", api.list(&page)).await?;
        pods.extend(facts_of(owner, &listed.items));
        // All pages are of the moment of the first.
        at = at.or(version(listed.metadata.resource_version.as_ref()));
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    if let Some(at) = at {
        context.pods.list(owner, pods, at);
    }
    Ok(())
}

/// The nodes of a job's pods that are gone: of a new one the watch may not have told yet.
pub(super) async fn absent_nodes(
    context: &Context,
    actor: &Actor<'_>,
    owner: &Owner,
    now: Timestamp,
) -> Result<BTreeSet<String>, ActError> {
    let mut unknown = context.pods.nodes(owner);
    unknown.retain(|name| context.node(name, now).is_none());
    let api: Api<Node> = Api::all(context.client.clone());
    let asked = stream::iter(unknown).map(|name| {
        let api = &api;
        async move {
            let named = ListParams::default().fields(&format!("metadata.name={name}"));
            let doing = format!("ask for node {name}");
            let found = actor.write("list_nodes", &doing, api.list_metadata(&named)).await?;
            Ok(found.items.is_empty().then_some(name))
        }
    });
    asked.buffered(ASKED_AT_ONCE).try_filter_map(async |absent| Ok(absent)).try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::builders::training;
    use crate::observe::Gang;

    /// A job of one gang of two, of which this is written down.
    fn world(gang: Option<Gang>) -> World {
        let mut world = training(2);
        world.ledger.gangs = gang.into_iter().map(|gang| (0, gang)).collect();
        world
    }

    #[test]
    fn who_knows_all_pods_of_a_job_asks_for_nothing_before_the_next_attempt() {
        let of = |attempt, stage| Some(Gang { stage, ..Gang::new(attempt, Timestamp::UNIX_EPOCH) });
        let waits = || Stage::Waiting { not_before: Timestamp::UNIX_EPOCH };
        // What is written down, the attempt that starts, and whether that is asked for: of pods that are known, and of doubted ones.
        for (gang, attempt, asks) in [
            (None, 1, [false, false]),
            (of(1, waits()), 2, [false, true]),
            (of(2, waits()), 3, [false, true]),
            (of(1, Stage::Starting), 1, [true, true]),
            (of(2, Stage::Starting), 2, [true, true]),
        ] {
            let world = world(gang);
            let plan = Plan { start: vec![MemberId { attempt, index: 1 }], ..Plan::default() };
            assert_eq!([false, true].map(|doubted| makes_again(&world, &plan, doubted)), asks, "{attempt}");
        }
        assert!(!makes_again(&world(of(1, waits())), &Plan::default(), true), "nothing is made");
    }
}
