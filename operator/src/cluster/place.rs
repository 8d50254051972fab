//! Where a job's next attempt would go, and what it starts from.

use std::collections::BTreeMap;

use crds::contract::Cause;
use crds::infrastructure::Infrastructure;
use crds::reasons::reason;

use super::context::{Context, NoModel, Remembered};
use super::kind::Kind;
use crate::observe::{Member, Obstacle, Origin, Setting, Stage};
use crate::placement::{self, Catalogue, Placed, Request, Why};

/// Where a job goes, and whose model it starts from.
pub(super) struct Place {
    pub(super) placed: Placed,
    /// The fingerprint of that.
    pub(super) fingerprint: u64,
    /// URI of the model of each TrainingJob that is named.
    pub(super) models: BTreeMap<String, String>,
    /// The claims that the data of that job lies on.
    pub(super) data: Vec<String>,
}

/// The infrastructure as an attempt that is under way was given it: what was Auto stays what it became, by the runtime that it
/// was given as long as the catalogue has it. One that finds no node at all is bound to nothing.
pub(super) fn pinned(
    asked: &Infrastructure,
    known: &Remembered,
    members: &[Member],
    catalogue: &Catalogue,
) -> Infrastructure {
    let mut infrastructure = asked.clone();
    let has_begun = known.ledger.gangs.values().any(|gang| !matches!(gang.stage, Stage::Waiting { .. }));
    let under_way = has_begun && !known.ledger.is_homeless(members);
    if let (Some(placement), true) = (&known.ledger.placement, under_way) {
        infrastructure.device = placement.device;
        let given = placement.runtime.clone().filter(|name| catalogue.has(name));
        infrastructure.runtime = infrastructure.runtime.or(given);
    }
    infrastructure
}

fn obstacle(reason: &str, message: &str, fails_by: Option<Cause>) -> Obstacle {
    Obstacle { reason: reason.to_owned(), message: crds::status::bounded(message), fails_by }
}

/// What the API server has against what a job needs, if it is to be told.
pub(super) fn refusal(known: &Remembered) -> Option<Obstacle> {
    if let Some(rejected) = &known.rejected {
        let message = format!("the API server refuses the pods: {rejected}");
        return Some(obstacle(reason::BAD_SPEC, &message, Some(Cause::BadSpec)));
    }
    let refused = known.refused.as_ref()?;
    let message = format!("the API server takes nothing more of it now: {refused}; it is tried again");
    Some(obstacle(reason::PODS_REFUSED, &message, None))
}

/// Where a new attempt would go, or why it can't start now.
pub(super) fn find_place<K: Kind>(
    job: &K,
    context: &Context,
    known: &Remembered,
    infrastructure: &Infrastructure,
    excluded: &[String],
) -> Result<Place, Obstacle> {
    if let Some(refusal) = refusal(known) {
        return Err(refusal);
    }
    let faults: Vec<String> = job.faults().iter().filter(|fault| fault.is_error()).map(ToString::to_string).collect();
    if !faults.is_empty() {
        return Err(obstacle(reason::BAD_SPEC, &faults.join("; "), Some(Cause::BadSpec)));
    }
    let model = model_of(job, context, known).transpose().map_err(|fault| match fault {
        NoModel::Yet(why) => obstacle(reason::WAITING_FOR_MODEL, &why, None),
        NoModel::Ever(why) => obstacle(reason::MODEL_MISSING, &why, Some(Cause::DataMissing)),
    })?;
    let data = model.as_ref().map(|model| model.claims.clone()).unwrap_or_default();
    let models = model.map(|model| (model.training_job, model.uri)).into_iter().collect();
    let wished = job.wishes(Setting::anywhere(context.settings.backoff));
    let request = Request {
        infrastructure,
        excluded,
        pods: wished.gangs_at_once() * wished.gang_size,
        gang: infrastructure.nodes,
        autoscaled: context.settings.autoscaled,
    };
    let nodes = context.nodes.as_ref().map(|nodes| nodes.facts());
    let placed = placement::place(&request, nodes.as_deref().map(Vec::as_slice), &context.settings.catalogue);
    let placed = placed.map_err(|refusal| {
        let fails_by = (refusal.why == Why::BadSpec).then_some(Cause::BadSpec);
        obstacle(refusal.reason(), &refusal.text(), fails_by)
    })?;
    Ok(Place { fingerprint: placed.fingerprint(), placed, models, data })
}

/// The model of the TrainingJob that a job names, if it names one: that which it started from, whatever has become of that
/// TrainingJob since.
pub(super) fn model_of<K: Kind>(job: &K, context: &Context, known: &Remembered) -> Option<Result<Origin, NoModel>> {
    let name = job.model()?.training_job.as_ref()?;
    if let Some(model) = known.ledger.model.as_ref().filter(|model| model.training_job == *name) {
        return Some(Ok(model.clone()));
    }
    let namespace = job.meta().namespace.clone().unwrap_or_default();
    Some(context.model_of(&namespace, name))
}

/// What a job asks for without effect. Once it has started that can't change.
pub(super) fn warnings<K: Kind>(job: &K, known: &Remembered) -> String {
    if known.ledger.attempt > 0 {
        return known.ledger.warnings.clone();
    }
    let faults = job.faults();
    let warnings = faults.iter().filter(|fault| !fault.is_error()).map(ToString::to_string).collect::<Vec<_>>();
    crds::status::bounded(&warnings.join("; "))
}
