//! Before a job has started, and when: another spec, the time that counts, the model that it starts from.

use crds::contract::Cause;

use super::builders::*;
use crate::observe::{FinalReason, MemberState, Obstacle, Origin, Phase, Stage, World};

/// Members 0 to `made` of the first attempt were made for an earlier spec, and no status was written.
fn made_before(world: World, made: u32, state: &MemberState) -> World {
    let mut world = (0..made).fold(world, |world, index| world.member_of(1, index, state.clone()));
    world.members.iter_mut().for_each(|member| member.spec = Some(world.job.spec - 1));
    world
}

#[test]
fn an_attempt_that_was_made_for_another_spec_is_torn_down_at_no_cost() {
    for (world, left) in [
        (training(1), vec!["1/1 gracefully", "1/2 gracefully"]),
        (training(2), vec!["1/2 gracefully"]),
        (training(5), vec![]),
        (scoring(2, 2), vec!["1/2 gracefully"]),
    ] {
        let world = made_before(world, 3, &running());
        let plan = world.decided(0);
        assert_eq!((starts(&plan), stops(&plan)), (vec![], left.into_iter().map(str::to_owned).collect()));
        let known = world.clone().then(&plan);
        let all: Vec<String> = (0..3).map(|index| format!("1/{index} gracefully")).collect();
        let mut stopped = stops(&known.decided(0));
        stopped.sort();
        assert_eq!(stopped, all);
        let gone = World { members: Vec::new(), ..known };
        let plan = gone.decided(1);
        let ledger = plan.ledger.as_ref().expect("the end is written down");
        assert_eq!((ledger.failures, ledger.attempts[0].failure.cause), (0, Cause::Preempted));
        let again = gone.then(&plan).decided(1);
        let job = &world.job;
        let expected: Vec<String> = (0..job.members()).map(|index| format!("2/{index}")).collect();
        assert_eq!(starts(&again), expected);
    }
}

#[test]
fn how_pods_of_another_spec_end_says_nothing() {
    for code in [0, 65] {
        let world = made_before(training(1), 1, &ended(code));
        let plan = world.decided(0);
        assert_eq!(stands(&world, &plan), (Phase::Restarting, 1, 0, 0), "exit code {code}");
        assert_eq!(starts(&world.then(&plan).decided(0)), ["2/0"]);
    }
}

#[test]
fn nothing_starts_beside_a_member_that_the_job_has_no_gang_for() {
    let mut world = training(1).gang(0, 1, waiting(0)).member_of(1, 4, running());
    world.members[0].stopping_since = Some(at(0));
    assert_eq!(starts(&world.decided(5)), [""; 0]);
    world.members[0].state = ended(143);
    let plan = world.decided(5);
    assert_eq!((starts(&plan), stops(&plan)), (vec!["2/0".to_owned()], vec!["1/4 clear".to_owned()]));
}

#[test]
fn the_deadline_counts_the_time_that_a_job_waits_for_its_place() {
    let mut world = training(1).wishing(|job| job.active_deadline_seconds = Some(100));
    world.place = Some(Err(Obstacle { reason: "NoFittingNode".into(), message: "none".into(), fails_by: None }));
    let plan = world.decided(0);
    let ledger = plan.ledger.as_ref().expect("why it waits is written down");
    assert_eq!((ledger.active_since, ledger.start_time, plan.wake), (Some(at(0)), None, Some(at(100))));
    let waits = world.then(&plan);
    assert!(waits.decided(99).is_empty());
    let late = waits.decided(100).ledger.expect("the end is written down");
    assert_eq!(late.failure.map(|(why, _)| why), Some(FinalReason::DeadlineExceeded));

    // What was waited before a suspension counts after it, and the suspension does not.
    let suspended = waits.wishing(|job| job.suspend = true);
    let suspended = suspended.clone().then(&suspended.decided(60));
    assert_eq!((suspended.ledger.active_seconds, suspended.ledger.active_since), (60, None));
    let resumed = suspended.wishing(|job| job.suspend = false);
    let plan = resumed.decided(1000);
    assert_eq!(plan.wake, Some(at(1040)));
    assert_eq!(resumed.then(&plan).decided(1040).ledger.map(|ledger| ledger.phase), Some(Phase::Failed));
}

#[test]
fn the_model_that_a_job_starts_from_is_kept_whatever_becomes_of_its_job() {
    let origin = |uri: &str| Some(Origin { training_job: "digits".to_owned(), uri: uri.to_owned(), claims: vec![] });
    let waits = World { model: origin("pvc://a"), place: None, ..training(1) };
    let kept = |world: &World| world.clone().then(&world.decided(0)).ledger.model;
    assert_eq!(kept(&waits), None, "nothing has started");
    let starts = World { model: origin("pvc://a"), ..training(1) };
    assert_eq!(kept(&starts), origin("pvc://a"));
    let adopts = starts.clone().member_of(1, 0, running());
    assert_eq!(kept(&adopts), origin("pvc://a"));
    let goes_on = World { model: origin("pvc://b"), ..starts.clone().then(&starts.decided(0)) };
    assert_eq!(kept(&goes_on), origin("pvc://a"));
    assert_eq!(super::histories::through_status(&goes_on).model, origin("pvc://a"));
}

#[test]
fn a_job_whose_model_will_never_come_fails_and_says_so() {
    let why = Obstacle {
        reason: "ModelMissing".into(),
        message: "the TrainingJob digits has failed".into(),
        fails_by: Some(Cause::DataMissing),
    };
    let plan = World { place: Some(Err(why)), ..training(1) }.decided(0);
    let ledger = plan.ledger.expect("the end is written down");
    assert_eq!(ledger.message, "ModelMissing: the TrainingJob digits has failed");
    assert_eq!((ledger.phase, plan.events[0].reason.as_str()), (Phase::Failed, "ModelMissing"));
}

#[test]
fn an_attempt_starts_when_its_first_pod_does() {
    let mut world = training(2).gang(0, 1, Stage::Starting).member(0, running()).member(1, pending());
    world.ledger.phase = Phase::Starting;
    world.ledger.message = "Attempt 1 starts".to_owned();
    world.members[0].started = Some(at(300));
    assert!(world.decided(301).is_empty(), "that is worth no write");
    world.members[1].state = running();
    world.members[1].started = Some(at(400));
    let mut runs = world.clone().then(&world.decided(401));
    assert_eq!(runs.ledger.gangs[&0].ran_since, Some(at(300)));
    runs.members = vec![];
    let runs = runs.clone().then(&runs.decided(500));
    assert_eq!(runs.ledger.attempts[0].start, Some(at(300)));

    let never = training(1).gang(0, 1, Stage::Starting).member(0, pending()).wishing(|job| job.suspend = true);
    let (mut never, _) = never.decided_twice(9);
    never.members.clear();
    assert_eq!(never.decided(10).ledger.expect("the end is written down").attempts[0].start, None);
}

#[test]
fn what_has_no_effect_is_told_once_when_the_job_starts() {
    let warned = |world: World| World { warnings: "gpusPerNode: has no effect".to_owned(), ..world };
    let told = |world: &World| {
        let events = world.decided(1).events;
        events.iter().filter(|event| event.reason == "NoEffect").count()
    };
    let unplaced = World { place: None, ..warned(training(1)) };
    assert_eq!((told(&unplaced), told(&warned(training(1)))), (0, 1));
    let started = warned(training(1));
    let started = started.clone().then(&started.decided(0));
    assert_eq!((told(&started), started.ledger.warnings.as_str()), (0, "gpusPerNode: has no effect"));
}

#[test]
fn that_a_pod_finds_no_node_is_written_down_until_it_does() {
    let mut world = training(1).gang(0, 1, Stage::Starting).member(0, pending());
    world.members[0].unplaced = true;
    let mut known = world.clone().then(&world.decided(0));
    assert!(known.ledger.unplaced && known.decided(9).is_empty());
    known.members[0].unplaced = false;
    assert!(!known.clone().then(&known.decided(9)).ledger.unplaced);
}
