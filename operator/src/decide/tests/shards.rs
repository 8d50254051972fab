//! Each shard by itself: its budget, its waiting time, whether it stands still, and how it is told of.

use crds::contract::Cause;

use super::builders::*;
use crate::observe::{Phase, Stage, World};

/// Two shards that run and have told of themselves.
fn two() -> World {
    let world = scoring(2, 2).gang(0, 1, Stage::Running).gang(1, 1, Stage::Running);
    let world = world.member_of(1, 0, running()).member_of(1, 1, running()).at_step(7);
    let world = world.wishing(|job| job.stall_deadline_seconds = Some(60));
    world.clone().then(&world.decided(0))
}

#[test]
fn a_shard_that_hangs_is_restarted_while_the_others_move() {
    let world = two().hears(1, 30);
    let world = world.clone().then(&world.decided(40));
    let plan = world.decided(59);
    assert_eq!((stops(&plan), plan.wake), (vec![], Some(at(60))));
    let (hangs, plan) = world.decided_twice(60);
    assert_eq!(stops(&plan), ["1/0 gracefully"]);
    assert!(hangs.ledger.stalled);
    let told = world.decided(60).events;
    assert_eq!(told[0].note, "No progress of shard 0 since step 7 for 60 s");
    // It stands still until it tells of itself again, whatever the other does.
    let others = hangs.clone().hears(1, 60);
    assert!(others.clone().then(&others.decided(100)).ledger.stalled);
    let itself = hangs.hears(0, 8);
    assert!(!itself.clone().then(&itself.decided(95)).ledger.stalled);
}

#[test]
fn a_shard_is_judged_by_its_own_attempt_whichever_is_the_highest() {
    // Shard 1 was tried again, and its second attempt tells of nothing.
    let world = two().gang(1, 2, Stage::Running);
    let mut world = world.member_of(2, 1, running());
    world.members.remove(1);
    assert_eq!(stops(&world.decided_twice(60).1), ["1/0 gracefully"]);
}

#[test]
fn each_shard_has_a_budget_and_a_waiting_time_of_its_own() {
    let failed = |failures: u32, of_shard: u32| {
        two().remembering(|ledger| {
            ledger.failures = failures;
            let gang = ledger.gangs.get_mut(&0).expect("a gang");
            (gang.failures, gang.streak, gang.streak_step) = (of_shard, of_shard, 7);
        })
    };
    for (failures, of_shard, phase) in [(900, 0, Phase::Running), (3, 2, Phase::Running), (3, 3, Phase::Failed)] {
        let mut world = failed(failures, of_shard);
        world.members[0].state = ended(162);
        let ledger = world.decided(5).ledger.expect("the end is written down");
        assert_eq!((ledger.phase, ledger.failures), (phase, failures + 1));
        let Stage::Waiting { not_before } = ledger.gangs[&0].stage else { panic!("{:?}", ledger.gangs) };
        let (wait, least) = (not_before.as_second() - at(5).as_second(), 10 << of_shard);
        assert!((least..=least + least / 5).contains(&wait), "{wait} s after {of_shard} failures in a row");
        assert_eq!(ledger.gangs[&1].streak, 0, "the other has not failed");
    }
    let mut last = failed(3, 3);
    last.members[0].state = ended(162);
    assert_eq!(
        last.decided(5).ledger.expect("the end is written down").message,
        "Storage of shard 0: exited with code 162 without a word; all 3 restarts of spec.runPolicy.backoffLimit are spent"
    );
}

#[test]
fn the_failures_of_a_shard_outlast_its_attempts() {
    let mut world = two();
    world.members[0].state = ended(162);
    let world = world.clone().then(&world.decided(5));
    let plan = world.decided(100);
    assert_eq!(starts(&plan), ["2/0"]);
    let again = &plan.ledger.expect("the start is written down").gangs[&0];
    assert_eq!((again.attempt, again.failures, again.streak, again.mark), (2, 1, 1, None));
}

#[test]
fn the_history_says_which_shard_it_was_and_those_that_are_done_push_out_none() {
    let world = (0..40).fold(scoring(40, 40), |world, shard| {
        let end = if shard == 17 { ended(162) } else { completed(1, 0.0) };
        world.gang(shard, 1, Stage::Running).member(shard, end)
    });
    let plan = world.decided(0);
    let ledger = plan.ledger.as_ref().expect("the ends are written down");
    let told: Vec<_> = ledger.attempts.iter().map(|one| (one.number, one.shard, one.failure.cause)).collect();
    assert_eq!(told, [(1, Some(17), Cause::Storage)]);
    assert_eq!(ledger.message, "Attempt 1 of shard 17 ended by Storage: exited with code 162 without a word");
    assert_eq!((ledger.done.len(), plan.ended.len()), (39, 40));
    let restarting = plan.events.iter().find(|event| event.reason == "Restarting").expect("it is told");
    assert!(restarting.note.starts_with("Attempt 1 of shard 17 ended by Storage"), "{}", restarting.note);
}

#[test]
fn of_shards_that_end_alike_the_one_that_the_job_fails_for_is_named() {
    let world = (0..20).fold(scoring(20, 20), |world, shard| {
        let state = if shard < 4 { running() } else { ended(65) };
        world.gang(shard, 1, Stage::Running).member(shard, state)
    });
    let ledger = world.decided(0).ledger.expect("the end is written down");
    assert_eq!(ledger.message, "BadData of shard 4: exited with code 65 without a word");
}

#[test]
fn many_shards_that_come_to_run_or_are_done_are_written_down_once_a_second_and_lose_nothing() {
    let many = 200;
    let mut world = scoring(many, many);
    for shard in 0..many {
        world = world.gang(shard, 1, Stage::Starting).member(shard, pending());
    }
    let mut writes = Vec::new();
    let mut told = 0;
    // In each tenth of a second another one runs, and one that has run is done.
    for tick in 0..i64::from(many) + 10 {
        let second = tick / 10;
        if let Some(member) = usize::try_from(tick).ok().and_then(|shard| world.members.get_mut(shard)) {
            member.state = running();
        }
        if let Some(member) = usize::try_from(tick - 10).ok().and_then(|shard| world.members.get_mut(shard)) {
            member.state = completed(1, 0.5);
        }
        let plan = world.decided(second);
        match &plan.ledger {
            Some(_) => writes.push(second),
            None => assert!(plan.is_empty() && plan.wake.is_some_and(|wake| wake <= at(second + 1)), "tick {tick}"),
        }
        told += plan.ended.len();
        world = world.then(&plan);
    }
    // Once few are left, each is written down as it comes.
    let gathered: Vec<i64> = writes.iter().copied().take_while(|second| *second < 8).collect();
    assert_eq!(gathered, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!((told, world.ledger.done.len(), world.ledger.phase), (200, 200, Phase::Succeeded));
    assert_eq!(world.ledger.result.map(|result| result.rows_in), Some(Some(200)));
}

#[test]
fn what_is_not_routine_among_many_shards_is_written_down_at_once() {
    let mut world = scoring(200, 200);
    for shard in 0..200 {
        world = world.gang(shard, 1, Stage::Running).member(shard, running());
    }
    world.ledger.gathered = Some(noon());
    let done = |world: &World| {
        let mut world = world.clone();
        world.members[1].state = completed(1, 0.5);
        world
    };
    let held = done(&world).decided(0);
    assert_eq!((held.is_empty(), held.wake), (true, Some(at(1))));
    assert!(done(&world).decided(1).ledger.is_some());
    let mut failed = done(&world);
    failed.members[2].state = ended(162);
    let suspended = done(&world).wishing(|job| job.suspend = true);
    let changed = done(&world).wishing(|job| job.generation = 2);
    for (what, world) in [("failed", failed), ("suspended", suspended), ("changed", changed)] {
        let plan = world.decided(0);
        let written = plan.ledger.unwrap_or_else(|| panic!("{what}"));
        assert!(written.done.contains(&1), "{what}: what is routine goes with it");
    }
}
