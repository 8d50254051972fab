//! Conditions in Kubernetes style: those of a job from its ledger, and how any are written.

use crds::contract::Cause;
use crds::reasons::{condition, reason};
use crds::status::Phase;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::observe::Ledger;

/// The conditions of a job. `before` are those written last: one that still holds keeps its time.
pub(super) fn conditions(ledger: &Ledger, before: &[Condition], now: Timestamp) -> Vec<Condition> {
    let phase = ledger.phase;
    let running = match phase {
        Phase::Running => reason::ALL_RUNNING.to_owned(),
        Phase::Suspended => reason::SUSPENDED.to_owned(),
        Phase::Succeeded => reason::COMPLETED.to_owned(),
        Phase::Failed => ledger.failed_for(),
        Phase::Pending | Phase::Starting | Phase::Restarting => match &ledger.obstacle {
            Some(obstacle) => obstacle.reason.clone(),
            None if phase == Phase::Restarting => reason::RESTARTING.to_owned(),
            None => reason::WAITING_FOR_PODS.to_owned(),
        },
    };
    let suspended = if phase == Phase::Suspended { reason::SUSPENDED } else { reason::RESUMED };
    let stalled = if ledger.stalled { reason::NO_PROGRESS } else { reason::PROGRESSING };
    let is_valid = ledger.failure.as_ref().is_none_or(|(_, failure)| failure.cause != Cause::BadSpec);
    let valid = if is_valid { reason::ACCEPTED } else { reason::BAD_SPEC };
    let mut wanted = vec![
        (condition::VALID, is_valid, valid.to_owned()),
        (condition::RUNNING, phase == Phase::Running, running),
        (condition::SUSPENDED, phase == Phase::Suspended, suspended.to_owned()),
        (condition::STALLED, ledger.stalled && !phase.is_terminal(), stalled.to_owned()),
    ];
    match &ledger.obstacle {
        Some(obstacle) => wanted.push((condition::SCHEDULABLE, false, obstacle.reason.clone())),
        None if ledger.unplaced => wanted.push((condition::SCHEDULABLE, false, reason::UNSCHEDULABLE.to_owned())),
        None if ledger.placement.is_some() => {
            wanted.push((condition::SCHEDULABLE, true, reason::PODS_CREATED.to_owned()));
        }
        None => {}
    }
    match phase {
        Phase::Succeeded => wanted.push((condition::COMPLETE, true, reason::COMPLETED.to_owned())),
        Phase::Failed => wanted.push((condition::FAILED, true, ledger.failed_for())),
        _ => {}
    }
    // A job that was never suspended says nothing of it, nor one that never stood still.
    let known = |kind: &str| before.iter().any(|old| old.type_ == kind);
    let exceptional = [condition::SUSPENDED, condition::STALLED];
    wanted.retain(|(kind, holds, _)| *holds || !exceptional.contains(kind) || known(kind));
    let mut all = written(wanted, &ledger.message, ledger.observed_generation, before, now);
    for valid in all.iter_mut().filter(|it| it.type_ == condition::VALID && is_valid && !ledger.warnings.is_empty()) {
        valid.message.clone_from(&ledger.warnings);
    }
    all
}

/// A condition's type, whether it holds, and its reason.
pub(crate) type Wished = (&'static str, bool, String);

/// Conditions as a status has them. One that is as it was before keeps its time.
pub(crate) fn written(
    wished: Vec<Wished>,
    message: &str,
    generation: i64,
    before: &[Condition],
    now: Timestamp,
) -> Vec<Condition> {
    wished
        .into_iter()
        .map(|(kind, holds, reason)| {
            let status = if holds { "True" } else { "False" };
            let since = before.iter().find(|old| old.type_ == kind && old.status == status);
            Condition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason,
                message: message.to_owned(),
                observed_generation: Some(generation),
                last_transition_time: since.map_or(Time(now), |old| old.last_transition_time.clone()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::observe::FinalReason;

    fn told(ledger: &Ledger, before: &[Condition]) -> Vec<(String, String)> {
        let now = "2026-07-01T12:00:00Z".parse().expect("a time");
        let said = |it: Condition| (it.type_, format!("{} {}", it.status, it.reason));
        conditions(ledger, before, now).into_iter().map(said).collect()
    }

    fn of(kind: &str, told: &[(String, String)]) -> Option<String> {
        told.iter().find(|(name, _)| name == kind).map(|(_, said)| said.clone())
    }

    #[test]
    fn standing_still_is_told_once_it_happened_and_taken_back_with_progress() {
        let mut ledger = Ledger { phase: Phase::Running, ..Ledger::default() };
        assert_eq!(of(condition::STALLED, &told(&ledger, &[])), None);
        ledger.stalled = true;
        let now = "2026-07-01T11:00:00Z".parse().expect("a time");
        let before = conditions(&ledger, &[], now);
        assert_eq!(of(condition::STALLED, &told(&ledger, &[])).as_deref(), Some("True NoProgress"));
        ledger.stalled = false;
        assert_eq!(of(condition::STALLED, &told(&ledger, &before)).as_deref(), Some("False Progressing"));
    }

    #[test]
    fn what_a_job_that_does_not_run_waits_for_is_the_reason_why_it_does_not() {
        let obstacle = || crate::observe::Obstacle {
            reason: reason::NO_FITTING_NODE.to_owned(),
            message: String::new(),
            fails_by: None,
        };
        let failure = |why| Some((why, crate::observe::Failure::of_job()));
        for (phase, obstacle, failure, running) in [
            (Phase::Pending, None, None, "False WaitingForPods"),
            (Phase::Pending, Some(obstacle()), None, "False NoFittingNode"),
            (Phase::Restarting, None, None, "False Restarting"),
            (Phase::Restarting, Some(obstacle()), None, "False NoFittingNode"),
            (Phase::Running, None, None, "True AllRunning"),
            (Phase::Failed, None, failure(FinalReason::DeadlineExceeded), "False DeadlineExceeded"),
            (Phase::Failed, None, failure(FinalReason::Permanent), "False OtherPermanent"),
        ] {
            let ledger = Ledger { phase, obstacle, failure, ..Ledger::default() };
            assert_eq!(of(condition::RUNNING, &told(&ledger, &[])).as_deref(), Some(running), "{phase:?}");
        }
    }

    #[test]
    fn a_job_whose_pod_finds_no_node_is_not_schedulable() {
        let mut ledger = Ledger { placement: Some(Default::default()), ..Ledger::default() };
        assert_eq!(of(condition::SCHEDULABLE, &told(&ledger, &[])).as_deref(), Some("True PodsCreated"));
        ledger.unplaced = true;
        assert_eq!(of(condition::SCHEDULABLE, &told(&ledger, &[])).as_deref(), Some("False Unschedulable"));
    }

    #[test]
    fn what_has_no_effect_is_told_by_the_condition_valid() {
        let now = "2026-07-01T12:00:00Z".parse().expect("a time");
        let ledger = Ledger { message: "m".to_owned(), warnings: "w".to_owned(), ..Ledger::default() };
        let told = conditions(&ledger, &[], now);
        let said = |kind: &str| told.iter().find(|it| it.type_ == kind).map(|it| it.message.as_str());
        assert_eq!((said(condition::VALID), said(condition::RUNNING)), (Some("w"), Some("m")));
    }

    #[test]
    fn only_a_bad_spec_makes_a_job_invalid() {
        for (cause, valid) in [(Cause::BadSpec, "False BadSpec"), (Cause::Bug, "True Accepted")] {
            let failure = json!({ "cause": cause, "member": 0, "message": "", "hint": "" });
            let failure = serde_json::from_value(failure).expect("a failure");
            let failure = Some((FinalReason::Permanent, failure));
            let ledger = Ledger { phase: Phase::Failed, failure, ..Ledger::default() };
            assert_eq!(of(condition::VALID, &told(&ledger, &[])).as_deref(), Some(valid));
        }
    }

    #[test]
    fn a_condition_that_still_holds_keeps_its_time() {
        let (first, then) = ("2026-07-01T11:00:00Z", "2026-07-01T12:00:00Z");
        let (first, then) = (first.parse().expect("a time"), then.parse().expect("a time"));
        let ledger = Ledger { phase: Phase::Running, ..Ledger::default() };
        let before = conditions(&ledger, &[], first);
        let ledger = Ledger { phase: Phase::Restarting, ..ledger };
        let after = conditions(&ledger, &before, then);
        let since = |kind: &str| after.iter().find(|it| it.type_ == kind).map(|it| it.last_transition_time.0);
        assert_eq!((since(condition::VALID), since(condition::RUNNING)), (Some(first), Some(then)));
    }
}
