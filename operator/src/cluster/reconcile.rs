//! One look at one job: observe, decide, act. It runs for one job at a time only once, and writes nothing where nothing has
//! changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::contract::{Cause, MANAGER};
use crds::infrastructure::{Device, Infrastructure};
use crds::reasons::reason;
use crds::status::Phase;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::controller::Action;

use super::act::{ActError, Actor};
use super::context::{Context, Remembered};
use super::hearsay;
use super::kind::Kind;
use super::news::Untold;
use super::place::{Place, Told, find_place, model_of, pinned, refusal, warnings};
use super::pods::Owner;
use crate::build::assignment;
use crate::build::pod::{Claim, Template, mounts};
use crate::decide::{Event, Plan, decide};
use crate::observe::pod::NodeState;
use crate::observe::{Job, Ledger, Member, MemberId, MemberState, Setting, Stage, World};

/// Time after which a job is looked at again while something waits that no event will tell of.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The same for pods that can't start and may be given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks at a job, and does what there is to do.
///
/// # Errors
/// A write failed; the job is looked at again.
pub(super) async fn reconcile<K: Kind>(job: Arc<K>, context: Arc<Context>) -> Result<Action, ActError> {
    let owner = Owner::named(job.as_ref());
    let elsewhere = job.managed_by().is_some_and(|manager| manager != MANAGER);
    if job.meta().deletion_timestamp.is_some() || elsewhere {
        context.forget(&owner);
        return Ok(Action::await_change());
    }
    let known = context.recall(job.as_ref(), &owner);
    // On the heap: it is large, and stacks are small.
    let result = Box::pin(look(job.as_ref(), &context, &owner, known.clone())).await;
    context.telemetry.reconciled(owner_kind::<K>(), result.as_ref().err().map_or("ok", ActError::category));
    match &result {
        // What was refused is tried again, less and less often.
        Ok(_) if known.refused.is_some() => context.change(&owner.uid, |known| known.refused = None),
        Ok(_) => context.change(&owner.uid, |known| (known.errors, known.rejected) = (0, None)),
        Err(error) => {
            tracing::warn!(kind = owner.kind, namespace = owner.namespace, name = owner.name, %error, "will try again");
            // Of a status or a Service that is not taken a person can't mend the spec.
            let rejected = error.invalid().filter(|_| error.is_of("create_pod"));
            context.change(&owner.uid, |known| {
                known.errors += 1;
                known.rejected = rejected.or(known.rejected.take());
                known.refused = error.told(known.errors);
            });
        }
    }
    if context.has_forgotten(&owner.uid) || context.is_gone(&owner) {
        // It went while it was looked at, or as that began: what that look has left goes too.
        context.forget(&owner);
    }
    result
}

fn owner_kind<K: Kind>() -> &'static str {
    if K::kind(&()) == "TrainingJob" { "TrainingJob" } else { "ScoringJob" }
}

async fn look<K: Kind>(job: &K, context: &Context, owner: &Owner, known: Remembered) -> Result<Action, ActError> {
    // The status keeps whole seconds: a decision on a ledger that was read is the one on the ledger that was written.
    let now = context.clock.second();
    let actor = context.actor();
    let each = job.infrastructure().gpus_per_node;
    let absent = hearsay::absent_nodes(context, &actor, owner, now).await?;
    let node = |name: &str| {
        context.node(name, now).unwrap_or_else(|| NodeState { is_gone: absent.contains(name), ..NodeState::default() })
    };
    // A status whose write was not answered may have been written all the same: to decide on what was before could tell another end of
    // the same job. And it may have been refused since the spec is another one than the watch has told of.
    let first = (!known.is_unsure).then(|| see(job, context, owner, &known, node, now));
    let rests = |sight: &Sight| !hearsay::asks(&sight.world, &sight.plan, &known, context.pods.is_doubted(owner));
    let read;
    let (job, known, sight) = match first.filter(rests) {
        Some(sight) => (job, &known, sight),
        None => {
            // It is gone, and its pods go with it: the watch will tell.
            let Some(asked) = hearsay::ask::<K>(context, &actor, owner).await? else {
                return Ok(Action::await_change());
            };
            read = asked;
            let sight = see(&read.job, context, owner, &read.known, node, now);
            if let Some(untold) = &read.untold {
                context.tell(owner, &untold.before, &untold.after, &untold.ended, &sight.world.job, each);
                context.news.spread(&untold.events, &read.job.object_ref(&()));
            }
            (&read.job, &read.known, sight)
        }
    };
    let Sight { world, mut plan, place, infrastructure, waits } = sight;
    let Some(reference) = job.controller_owner_ref(&()) else { return Ok(Action::await_change()) };
    let mut beside = known.beside.clone();
    let acted = async {
        if plan.protect
            && let Some(why) = actor.protect(&world.job, &reference, &mut beside).await?
        {
            let note = format!("A drain may take several pods of the gang at once: {why}");
            plan.events.push(Event { warning: true, reason: reason::UNPROTECTED.to_owned(), note });
        }
        // A gang is stopped whatever becomes of what it has beside its pods.
        let (apart, acted) = futures::join!(
            async { if plan.disconnect { actor.disconnect(&world.job, &mut beside).await } else { Ok(()) } },
            act(job, &actor, &world.job, &plan, place.as_ref(), &infrastructure, &reference),
        );
        acted.and(apart)?;
        match plan.connect {
            Some(_) => actor.connect(&world.job, &reference, &mut beside).await,
            None => Ok(()),
        }
    };
    let acted = acted.await;
    context.change(&owner.uid, |known| known.beside = beside);
    acted?;
    if plan.connect.is_some() || plan.disconnect {
        context.change(&owner.uid, |known| known.connected = plan.connect);
    }
    let mut written = known.written.clone();
    if let Some(ledger) = &plan.ledger {
        let answer = actor.status(job, owner, ledger, &known.written, now).await;
        context.change(&owner.uid, |known| {
            known.is_unsure = answer.is_err();
            known.untold = answer.is_err().then(|| {
                let (before, after) = (world.ledger.clone(), ledger.clone());
                Box::new(Untold { before, after, ended: plan.ended.clone(), events: plan.events.clone() })
            });
        });
        if answer.as_ref().is_err_and(|error| error.is_code(404)) {
            // It is gone, and its pods go with it: the watch will tell, or the next look.
            return Ok(Action::requeue(LOOK_AGAIN));
        }
        written = answer?;
        context.tell(owner, &world.ledger, ledger, &plan.ended, &world.job, each);
    }
    let ledger = plan.ledger.clone().unwrap_or(world.ledger);
    context.change(&owner.uid, |known| (known.ledger, known.written) = (ledger.clone(), written));
    context.news.spread(&plan.events, &job.object_ref(&()));
    follow(context, owner, &world.job, &ledger);
    context.note_gpus(owner, &ledger, &world.members, each);
    let waits_for_nodes = ledger.obstacle.is_some() || ledger.is_homeless(&world.members);
    context.note_unplaced(owner, waits_for_nodes && !ledger.phase.is_terminal());
    // One that has just come to its end is looked at once more: what lives of it is stopped then.
    if ledger.phase.is_terminal() && plan.wake.is_none() {
        return expire(job, context, owner, &ledger, known).await;
    }
    let for_model = ledger.obstacle.as_ref().is_some_and(|obstacle| obstacle.reason == reason::WAITING_FOR_MODEL);
    let wake = plan.wake.map(|wake| until(wake, context.clock.now()));
    let soon = (for_model || context.is_one_fading(&world.members, now)).then_some(LOOK_AGAIN);
    let later = (waits || world.members.iter().any(|member| member.stopping_since.is_some())).then_some(PATIENCE);
    let again = known.refused.is_some().then(|| backoff(known.errors));
    match [wake, soon, later, again].into_iter().flatten().min() {
        Some(time) => Ok(Action::requeue(time)),
        None => Ok(Action::await_change()),
    }
}

/// What is seen of a job, and what is to be done about it.
struct Sight {
    world: World,
    plan: Plan,
    place: Option<Place>,
    infrastructure: Infrastructure,
    /// Whether a pod waits for something that no event will tell of.
    waits: bool,
}

fn see<K: Kind>(
    job: &K,
    context: &Context,
    owner: &Owner,
    known: &Remembered,
    node: impl Fn(&str) -> NodeState,
    now: Timestamp,
) -> Sight {
    let start = Instant::now();
    let members = context.pods.members(owner, node, now);
    let infrastructure = pinned(job.infrastructure(), known, &members, &context.settings.catalogue);
    let unfit: Vec<String> = members
        .iter()
        .filter(|member| member.end().is_some_and(|end| end.cause == Cause::GpuUnsupported))
        .filter_map(|member| member.node.clone())
        .collect();
    let elsewhere = unfit.is_empty() || {
        let told = Told::without(&known.ledger, unfit);
        // The next attempt is pinned to nothing: where the device is Auto it may compute on CPUs. What waits for something
        // else than a node has not been told that there is none.
        let found = find_place(job, context, known, job.infrastructure(), &told);
        found.err().is_none_or(|obstacle| obstacle.reason != reason::NO_FITTING_NODE)
    };
    let setting = Setting { elsewhere, backoff: context.settings.backoff, grace_seconds: None };
    let wished = job.wishes(setting);
    // Of what keeps a node from getting a pod ready no event may come.
    let is_prepared = |member: &Member| member.state == MemberState::Pending && member.node.is_some();
    let waits = members.iter().any(|member| !member.waiting.is_empty() || is_prepared(member));
    let mut world = World {
        ledger: known.ledger.clone(),
        members,
        progress: context.polls.newest(&owner.uid, wished.gangs, &known.ledger.done),
        heard: context.polls.marks(&owner.uid),
        since: known.known_since,
        warnings: warnings(job, known),
        model: model_of(job, context, known).and_then(Result::ok),
        place: refusal(known).map(Err),
        gate: None,
        connected: known.connected,
        job: wished,
    };
    let (mut plan, mut place) = (decide(&world, now), None);
    if plan.asks_place {
        let found = find_place(job, context, known, &infrastructure, &Told::by(&known.ledger));
        world.gate = found.as_ref().ok().map(|place| place.fingerprint);
        world.place = Some(found.as_ref().map(|place| place.placed.status(None)).map_err(Clone::clone));
        (plan, place) = (decide(&world, now), found.ok());
    }
    context.telemetry.decided(start.elapsed());
    Sight { world, plan, place, infrastructure, waits }
}

/// Makes and stops pods.
async fn act<K: Kind>(
    job: &K,
    actor: &Actor<'_>,
    wished: &Job,
    plan: &Plan,
    place: Option<&Place>,
    infrastructure: &Infrastructure,
    reference: &OwnerReference,
) -> Result<(), ActError> {
    let owner = Owner::named(job);
    let (Some(place), false) = (place, plan.start.is_empty()) else {
        return actor.members(plan, None, &owner).await;
    };
    let spec = job.spec_json();
    let mut claims = Claim::of(&spec);
    // The recipe of an earlier job names its data by the folders that its claims were mounted at.
    let inherited = place.data.iter().filter(|_| spec.get("data").is_none());
    let inherited = inherited.map(|name| Claim { name: name.clone(), is_written: false });
    for claim in place.models.values().filter_map(|uri| Claim::of_model(uri, &spec)).chain(inherited) {
        match claims.iter_mut().find(|known| known.name == claim.name) {
            Some(known) => known.is_written |= claim.is_written,
            None => claims.push(claim),
        }
    }
    let device = if place.placed.device == Device::Gpu { Device::Gpu } else { Device::Cpu };
    let spec = assignment::resolve(&spec, device, &mounts(&claims), &place.models);
    let template = Template {
        job: wished,
        infrastructure,
        placed: &place.placed,
        place: place.fingerprint,
        spec: &spec,
        claims: &claims,
        owner: reference,
    };
    actor.members(plan, Some(&template), &owner).await
}

/// Asks the leaders of the gangs that run how far they are.
fn follow(context: &Context, owner: &Owner, job: &Job, ledger: &Ledger) {
    if ledger.phase.is_terminal() || ledger.phase == Phase::Suspended {
        return context.polls.forget(&owner.uid);
    }
    let leaders = ledger
        .gangs
        .iter()
        .filter(|(_, gang)| matches!(gang.stage, Stage::Running))
        .filter_map(|(number, gang)| {
            let id = MemberId { attempt: gang.attempt, index: job.members_of(*number).start };
            Some((*number, context.pods.address(owner, id)?))
        })
        .collect();
    context.polls.ask(owner, &leaders);
}

/// Deletes a finished job whose time is over, or waits until then.
async fn expire<K: Kind>(
    job: &K,
    context: &Context,
    owner: &Owner,
    ledger: &Ledger,
    known: &Remembered,
) -> Result<Action, ActError> {
    let (Some(ttl), Some(completed)) = (job.run_policy().ttl_seconds_after_finished, ledger.completion_time) else {
        return Ok(Action::await_change());
    };
    let end = completed.checked_add(SignedDuration::from_secs(ttl.into())).unwrap_or(Timestamp::MAX);
    let now = context.clock.now();
    if now < end {
        return Ok(Action::requeue(until(end, now)));
    }
    if now < context.stays(owner, end, completed, known.known_since) {
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    context.actor().expire::<K>(owner, known.written.version.as_ref()).await?;
    // It is gone, or was changed meanwhile.
    Ok(Action::requeue(LOOK_AGAIN))
}

/// Time from `now` until `then`, and a moment more: decisions are taken on whole seconds.
fn until(then: Timestamp, now: Timestamp) -> Duration {
    then.duration_since(now).try_into().unwrap_or(Duration::ZERO) + Duration::from_millis(20)
}

/// How long to wait after an error, by the number of errors in a row.
pub(super) fn after_error<K: Kind>(job: &Arc<K>, error: &ActError, context: &Arc<Context>) -> Action {
    let errors = context.errors(&job.meta().uid.clone().unwrap_or_default());
    Action::requeue(error.wait(errors))
}

/// Time before what failed so many times in a row is tried again: from a tenth of a second to a minute.
pub(super) fn backoff(errors: u32) -> Duration {
    (Duration::from_millis(50) * 2_u32.saturating_pow(errors.min(11))).min(Duration::from_secs(60))
}
