//! Where a job's next attempt would go, and what it starts from.

use std::collections::BTreeMap;

use crds::contract::Cause;
use crds::infrastructure::{Device, Infrastructure};
use crds::reasons::reason;

use super::context::{Context, NoModel, Remembered};
use super::kind::Kind;
use crate::observe::{Ledger, Member, Obstacle, Origin, Setting, Stage};
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

/// What the attempts of a job have told of nodes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Nodes that are left out.
    pub(super) excluded: Vec<String>,
    /// Those of them that are left out for good.
    pub(super) unfit: Vec<String>,
    /// Whether the newest attempt was on GPUs, and nothing was wrong with them.
    pub(super) had_gpus: bool,
}

impl Told {
    pub(super) fn by(ledger: &Ledger) -> Told {
        let on_gpus = ledger.placement.as_ref().is_some_and(|placement| placement.device == Device::Gpu);
        let last = ledger.attempts.last().map(|attempt| attempt.failure.cause);
        Told {
            excluded: ledger.excluded.keys().cloned().collect(),
            unfit: ledger.excluded.iter().filter(|(_, until)| until.is_none()).map(|(node, _)| node.clone()).collect(),
            had_gpus: on_gpus && last != Some(Cause::GpuUnsupported),
        }
    }

    /// What is asked by to learn whether an attempt could go elsewhere than to these nodes: nothing is waited for, so that a job that
    /// may use CPUs has them to go to, and one that may not fails where the last node with GPUs does not fit.
    pub(super) fn without(ledger: &Ledger, nodes: impl IntoIterator<Item = String>) -> Told {
        let unfit: Vec<String> = Told::by(ledger).excluded.into_iter().chain(nodes).collect();
        Told { excluded: unfit.clone(), unfit, had_gpus: false }
    }
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
    told: &Told,
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
        excluded: &told.excluded,
        unfit: &told.unfit,
        had_gpus: told.had_gpus,
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

#[cfg(test)]
mod tests {
    use crds::status::Placement;
    use jiff::Timestamp;

    use super::*;
    use crate::observe::{Attempt, Failure};

    fn ledger(device: Device, last: Cause) -> Ledger {
        let failure = Failure { cause: last, ..Failure::of_job() };
        let attempt = Attempt { number: 1, shard: None, start: None, end: Timestamp::UNIX_EPOCH, failure };
        Ledger {
            excluded: [("for-good".to_owned(), None), ("for-now".to_owned(), Some(Timestamp::UNIX_EPOCH))].into(),
            placement: Some(Placement { device, ..Placement::default() }),
            attempts: vec![attempt],
            ..Ledger::default()
        }
    }

    #[test]
    fn a_ledger_tells_which_nodes_come_back_and_whether_the_gpus_were_good() {
        for (device, last, had_gpus) in [
            (Device::Gpu, Cause::NodeFault, true),
            (Device::Gpu, Cause::GpuUnsupported, false),
            (Device::Cpu, Cause::NodeFault, false),
        ] {
            let told = Told::by(&ledger(device, last));
            let (excluded, unfit) = (["for-good", "for-now"].map(str::to_owned).to_vec(), vec!["for-good".to_owned()]);
            assert_eq!(told, Told { excluded, unfit, had_gpus }, "{device:?} {last:?}");
        }
        assert!(!Told::by(&Ledger::default()).had_gpus);
    }

    #[test]
    fn no_node_that_is_left_out_is_one_to_go_to_and_none_is_waited_for() {
        let told = Told::without(&ledger(Device::Gpu, Cause::NodeFault), ["this".to_owned()]);
        let all = ["for-good", "for-now", "this"].map(str::to_owned).to_vec();
        assert_eq!(told, Told { excluded: all.clone(), unfit: all, had_gpus: false });
    }
}
