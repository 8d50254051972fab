//! Gangs that find no room, or not for all of them.

use crds::contract::Cause;
use crds::run_policy::{ExitAction, ExitCode};

use super::builders::*;
use crate::observe::{FinalReason, MemberState, Obstacle, Phase, Stage, World};

/// A gang of two of which one member is like this, and the other one waits: on a node, for one, or for its queue.
fn half_of_it(state: MemberState, other: &str) -> World {
    let mut world = training(2).gang(0, 1, Stage::Starting).member(0, state).member(1, pending());
    world.ledger.phase = Phase::Starting;
    match other {
        "placed" => world.members[1].node = Some("n1".to_owned()),
        "unplaced" => find_no_node(&mut world, 1),
        "gated" => {
            find_no_node(&mut world, 1);
            world.members[1].waiting = "SchedulingGated: its queue".to_owned();
        }
        _ => drop(world.members.pop()),
    }
    world
}

fn find_no_node(world: &mut World, member: usize) {
    world.members[member].unplaced = true;
    world.members[member].waiting = "Unschedulable: 0/9 nodes are available".to_owned();
}

/// What an end comes to once all that is left of its attempt is stopped: phase and failures.
fn comes_to(world: &World) -> (Phase, u32) {
    let mut world = world.clone();
    for seconds in 5..9 {
        let plan = world.decided(seconds);
        world.members.retain(|member| plan.stop.iter().all(|stop| stop.uid != member.uid));
        world = world.then(&plan);
    }
    (world.ledger.phase, world.ledger.failures)
}

#[test]
fn members_that_give_up_since_others_have_no_room_cost_nothing() {
    for (code, other, phase, failures) in [
        (161, "unplaced", Phase::Restarting, 0),
        (161, "missing", Phase::Restarting, 0),
        (137, "unplaced", Phase::Restarting, 0),
        (161, "placed", Phase::Restarting, 1),
        (161, "gated", Phase::Restarting, 1),
        // These have causes of their own, whoever is missing.
        (162, "unplaced", Phase::Restarting, 1),
        (160, "unplaced", Phase::Restarting, 1),
        (65, "unplaced", Phase::Failed, 1),
    ] {
        assert_eq!(comes_to(&half_of_it(ended(code), other)), (phase, failures), "exit code {code}, the other {other}");
    }
    let ran = half_of_it(ended(161), "unplaced").running_attempt(1);
    assert_eq!(comes_to(&ran), (Phase::Restarting, 1), "it was whole once");
}

#[test]
fn codes_that_a_manifest_lets_restart_cost_nothing_either_while_others_have_no_room() {
    for (action, other, phase, failures) in [
        (ExitAction::Restart, "unplaced", Phase::Restarting, 0),
        (ExitAction::Restart, "placed", Phase::Restarting, 1),
        (ExitAction::Fail, "unplaced", Phase::Failed, 1),
    ] {
        let world =
            half_of_it(ended(3), other).wishing(|job| job.exit_codes = Some(vec![ExitCode { code: 3, action }]));
        assert_eq!(comes_to(&world), (phase, failures), "{action:?}, the other {other}");
    }
}

#[test]
fn it_is_told_that_others_had_no_room_and_no_budget_is_needed() {
    let world = half_of_it(ended(161), "unplaced").wishing(|job| job.backoff_limit = 0);
    let plan = world.decided(5);
    let ledger = plan.ledger.as_ref().expect("it is written down");
    let Stage::Failing { failure } = &ledger.gangs[&0].stage else { panic!("{:?}", ledger.gangs) };
    assert_eq!(failure.cause, Cause::Preempted);
    assert!(failure.message.starts_with("1 of 2 pods had found no node yet (PeerLost: "), "{}", failure.message);
    assert_eq!(comes_to(&world), (Phase::Restarting, 0));
    let placed = half_of_it(ended(161), "placed").wishing(|job| job.backoff_limit = 0);
    let ledger = placed.decided(5).ledger.expect("it is written down");
    assert!(!matches!(&ledger.failure, Some((FinalReason::Permanent, _))), "{:?}", ledger.failure);
    assert_eq!(comes_to(&placed), (Phase::Failed, 1));
}

/// A job of two pods that find no node, made for place 7, where there is place 8 now.
fn homeless() -> World {
    let mut world = training(2).gang(0, 1, Stage::Starting).member(0, pending()).member(1, pending());
    (world.ledger.phase, world.gate) = (Phase::Starting, Some(8));
    for member in 0..2 {
        find_no_node(&mut world, member);
        world.members[member].place = Some(7);
    }
    // That they wait is told.
    world.clone().then(&world.decided(0))
}

#[test]
fn pods_that_find_no_node_are_made_anew_once_others_would_be_made() {
    let world = homeless();
    let early = world.decided(29);
    assert_eq!((early.is_empty(), early.wake), (true, Some(at(30))), "nodes come and go in numbers");
    let (mut world, plan) = world.decided_twice(30);
    assert_eq!(stops(&plan), ["1/0 gracefully", "1/1 gracefully"]);
    world.members.clear();
    let closed = world.decided(31);
    assert_eq!(stands(&world, &closed), (Phase::Restarting, 1, 0, 0));
    let note = &closed.events.last().expect("it is told").note;
    assert!(note.contains("no node was found for any of its pods") && note.ends_with("starts at once"), "{note}");
    let world = world.then(&closed);
    let next = world.decided(31);
    assert_eq!((starts(&next), stands(&world, &next)), (vec!["2/0".into(), "2/1".into()], (Phase::Starting, 2, 1, 0)));
}

#[test]
fn pods_are_left_alone_where_nothing_is_gained_or_something_lost() {
    let unless = |change: fn(&mut World)| {
        let mut world = homeless();
        change(&mut world);
        let plan = world.decided(3600);
        plan.ledger.is_none_or(|ledger| ledger.gangs[&0].stage == Stage::Starting)
    };
    assert!(!unless(|_| ()));
    assert!(unless(|world| world.gate = Some(7)), "the same place");
    assert!(unless(|world| world.gate = None), "no place was asked for");
    assert!(
        unless(|world| world.members.iter_mut().for_each(|member| member.place = None)),
        "made by an older operator"
    );
    assert!(unless(|world| world.members[1].node = Some("n1".to_owned())), "one has a node");
    assert!(unless(|world| world.members[1].state = running()), "one runs");
    assert!(
        unless(|world| world.members.iter_mut().for_each(|member| member.waiting = "SchedulingGated: q".to_owned())),
        "a queue holds them back"
    );
}

#[test]
fn what_is_missing_of_a_gang_is_not_made_for_another_place_than_the_rest() {
    let mut world = homeless();
    world.members.pop();
    assert_eq!(starts(&world.decided(5)), Vec::<String>::new());
    world.gate = Some(7);
    assert_eq!(starts(&world.decided(5)), ["1/1"]);
}

#[test]
fn pods_that_can_never_find_a_node_any_more_are_told_of_at_once() {
    let obstacle =
        |reason: &str, fails_by| Obstacle { reason: reason.to_owned(), message: "none fits".to_owned(), fails_by };
    let world = World { place: None, gate: None, ..homeless() };
    assert!(world.decided(1).asks_place);
    let told = World { place: Some(Err(obstacle("NoFittingNode", None))), ..world.clone() }.decided(1);
    let ledger = told.ledger.expect("it is written down");
    assert_eq!((ledger.phase, ledger.message.as_str()), (Phase::Starting, "none fits"));
    assert_eq!(told.events.iter().map(|event| event.reason.as_str()).collect::<Vec<_>>(), ["NoFittingNode"]);
    assert!(told.stop.is_empty());
    // Pods that are there need no more than a node.
    let gone = obstacle("BadSpec", Some(Cause::BadSpec));
    assert!(World { place: Some(Err(gone)), ..world }.decided(1).is_empty());
}

#[test]
fn what_keeps_a_node_from_getting_a_pod_ready_is_told_with_where_to_look() {
    let mut world = training(1).gang(0, 1, Stage::Starting).member(0, pending());
    world.ledger.phase = Phase::Starting;
    let member = &mut world.members[0];
    (member.node, member.preparing) = (Some("gpu-1".to_owned()), true);
    member.waiting = "its volumes or its network are not ready".to_owned();
    let plan = world.decided(200);
    let says = "node gpu-1 has been preparing pod a-t1-0 for more than 3 min: its volumes or its network are not ready; \
                `kubectl describe pod a-t1-0 -n n` says more";
    assert_eq!(plan.ledger.map(|ledger| ledger.message), Some(format!("Attempt 1 starts: {says}")));
    assert_eq!(plan.events[0].note, format!("Attempt 1 does not start yet: {says}"));
}

#[test]
fn what_is_in_a_jobs_way_is_told_once_and_its_counts_are_written_twice_a_minute() {
    let mut world = training(1);
    // Second, reason and sentence; whether it is written down and told, and when it is looked at again.
    for (second, reason, message, written, told, wake) in [
        (0, "NoFittingNode", "none of 4 nodes", true, true, None),
        (1, "NoFittingNode", "none of 4 nodes", false, false, None),
        (2, "NoFittingNode", "none of 5 nodes", true, false, None),
        (10, "NoFittingNode", "none of 6 nodes", false, false, Some(32)),
        (31, "NoFittingNode", "none of 7 nodes", false, false, Some(32)),
        (32, "NoFittingNode", "none of 7 nodes", true, false, None),
        (40, "WaitingForModel", "waits", true, true, None),
        (41, "NoFittingNode", "none of 7 nodes", true, true, None),
        (640, "NoFittingNode", "none of 8 nodes", true, false, None),
        (641, "NoFittingNode", "none of 8 nodes", false, false, None),
        (672, "NoFittingNode", "none of 9 nodes", true, true, None),
        (673, "NoFittingNode", "none of 4 nodes", true, false, None),
    ] {
        let obstacle = Obstacle { reason: reason.to_owned(), message: message.to_owned(), fails_by: None };
        world.place = Some(Err(obstacle));
        let plan = world.decided(second);
        let seen = (plan.ledger.is_some(), !plan.events.is_empty(), plan.wake);
        assert_eq!(seen, (written, told, wake.map(at)), "second {second}");
        world = world.then(&plan);
        if written {
            assert_eq!(world.ledger.message, message);
        }
    }
}

#[test]
fn what_the_scheduler_says_of_a_pod_is_written_twice_a_minute() {
    let mut world = training(1).gang(0, 1, Stage::Starting).member(0, pending());
    let mut writes = Vec::new();
    for second in 0..90 {
        world.members[0].waiting = format!("0/{second} nodes are available");
        let plan = world.decided(second);
        if plan.ledger.is_some() {
            writes.push(second);
        }
        world = world.then(&plan);
    }
    assert_eq!(writes, [0, 1, 31, 61]);
    assert_eq!(world.ledger.message, "Attempt 1 starts: 0/61 nodes are available");
}
