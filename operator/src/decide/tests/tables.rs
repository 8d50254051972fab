//! One decision each: this world, that plan.

use crds::contract::{Cause, Progress};
use crds::status::Placement;

use super::builders::*;
use crate::observe::{End, FinalReason, MemberState, Obstacle, Phase, Stage, World};

#[test]
fn a_new_job_starts_all_members_of_its_first_attempt() {
    let world = training(3);
    let plan = world.decided(0);
    assert_eq!(starts(&plan), ["1/0", "1/1", "1/2"]);
    assert_eq!(stands(&world, &plan), (Phase::Starting, 1, 0, 0));
    assert_eq!(plan.events.len(), 1);
}

#[test]
fn a_gang_runs_when_all_of_it_does() {
    let starting = training(2).gang(0, 1, Stage::Starting).remembering(|ledger| ledger.phase = Phase::Starting);
    for (world, phase, started) in [
        (starting.clone(), Phase::Starting, vec!["1/0", "1/1"]),
        (starting.clone().member(0, running()), Phase::Starting, vec!["1/1"]),
        (starting.clone().member(0, running()).member(1, pending()), Phase::Starting, vec![]),
        (starting.member(0, running()).member(1, running()), Phase::Running, vec![]),
    ] {
        let plan = world.decided(1);
        assert_eq!(starts(&plan), started);
        assert_eq!(stands(&world, &plan).0, phase);
        assert_eq!(plan.protect, phase == Phase::Running, "the budget is there before the status says that it runs");
        assert!(!world.then(&plan).decided(2).protect);
    }
}

#[test]
fn a_gang_is_connected_once_it_is_whole_and_has_a_node_and_before_the_status_says_that_it_runs() {
    let on = |mut world: World, node: Option<&str>| {
        world.members[0].node = node.map(str::to_owned);
        world
    };
    let made = || training(2).member_of(1, 0, pending()).member_of(1, 1, pending());
    let starting = |attempt| training(2).gang(0, attempt, Stage::Starting);
    let runs = |attempt| starting(attempt).member(0, running()).member(1, running());
    for (world, connects) in [
        (training(2), false),
        (made(), false),
        (on(made(), Some("a")), true),
        (on(starting(1).member(0, pending()), Some("a")), false),
        (on(starting(3).member(0, pending()).member(1, pending()), Some("a")), true),
        (on(runs(2), Some("a")), true),
        (on(training(2).running_attempt(1).member(0, running()).member(1, running()), Some("a")), false),
        (on(training(1).member_of(1, 0, pending()), Some("a")), false),
        (on(scoring(2, 2).member_of(1, 0, pending()).member_of(1, 1, pending()), Some("a")), false),
    ] {
        let plan = world.decided(0);
        let attempt = plan.ledger.as_ref().unwrap_or(&world.ledger).attempt;
        assert_eq!(plan.connect, connects.then_some(attempt), "{:?}", world.members);
        assert!(!plan.disconnect);
        let connected = World { connected: Some(attempt), ..world.clone().then(&plan) };
        assert_eq!(connected.decided(0).connect, None, "once");
    }
    let (stops, _) = World { connected: Some(2), ..runs(2).member(1, ended(162)) }.decided_twice(0);
    assert!(stops.decided(0).disconnect, "what lives is stopped");
    assert!(!World { connected: None, ..stops.clone() }.decided(0).disconnect, "once");
    let gone = World { members: Vec::new(), ..stops };
    assert!(!gone.decided(0).disconnect);
}

#[test]
fn a_gang_that_can_not_be_connected_says_why_and_does_not_count_as_running() {
    let mut world = training(2).gang(0, 1, Stage::Starting).member(0, running()).member(1, running());
    world.ledger.phase = Phase::Starting;
    world.members[0].node = Some("a".to_owned());
    let refused = Obstacle { reason: "PodsRefused".into(), message: "its name is taken".into(), fails_by: None };
    world.place = Some(Err(refused));
    let plan = world.decided(0);
    assert_eq!((plan.connect, plan.protect, stands(&world, &plan).0), (None, false, Phase::Starting));
    assert_eq!(plan.ledger.as_ref().unwrap().message, "its name is taken");
    assert_eq!(plan.events[0].reason, "PodsRefused");
    let mut world = world.then(&plan);
    assert!(world.decided(1).is_empty(), "it says so once");
    world.place = None;
    let plan = world.decided(2);
    assert_eq!((plan.connect, plan.protect, stands(&world, &plan).0), (Some(1), true, Phase::Running));
    assert_eq!(plan.ledger.unwrap().obstacle, None);
}

#[test]
fn a_pod_that_goes_on_without_its_member_is_stopped_once_that_is_written_down() {
    let lingering = |code| {
        let MemberState::Ended(end) = ended(code) else { unreachable!("it has ended") };
        MemberState::Ended(End { lingers: true, ..end })
    };
    let failed = training(1).running_attempt(1).member(0, lingering(162));
    let plan = failed.decided(0);
    assert_eq!(stops(&plan), [""; 0]);
    assert_eq!(stops(&failed.then(&plan).decided(1)), ["1/0 clear"]);
    let next = training(1).gang(0, 2, Stage::Starting).member_of(1, 0, lingering(162)).member(0, pending());
    assert_eq!(stops(&next.decided(1)), ["1/0 clear"], "the next attempt needs what it holds, log or not");

    let done = training(1).running_attempt(1).member(0, lingering(0));
    let plan = done.decided(0);
    assert_eq!((stands(&done, &plan).0, stops(&plan), plan.wake), (Phase::Succeeded, vec![], Some(at(0))));
    let mut done = done.then(&plan);
    assert_eq!(stops(&done.decided(1)), ["1/0 clear"]);
    done.members[0].stopping_since = Some(at(1));
    assert!(done.decided(2).is_empty(), "once");
    let shard = scoring(2, 1).gang(0, 1, Stage::Running).member(0, lingering(0));
    let plan = shard.decided(0);
    assert_eq!(stops(&plan), [""; 0]);
    assert_eq!(stops(&shard.then(&plan).decided(1)), ["1/0 clear"]);
}

#[test]
fn members_made_before_a_crash_are_adopted() {
    let first = training(2).member_of(1, 0, running());
    let plan = first.decided(1);
    assert_eq!((starts(&plan), stands(&first, &plan)), (vec!["1/1".to_owned()], (Phase::Starting, 1, 0, 0)));

    let second = training(2).gang(0, 1, waiting(0)).member_of(1, 0, ended(162)).member_of(2, 1, pending());
    let plan = second.decided(1);
    assert_eq!(starts(&plan), ["2/0"]);
    assert!(stops(&plan).is_empty(), "the one that failed stays for its log");
    assert_eq!(stands(&second, &plan), (Phase::Starting, 2, 1, 0));
}

#[test]
fn a_gang_is_done_when_its_leader_has_completed_and_nothing_lives() {
    let world = training(2).running_attempt(1).member(0, completed(0, 0.99)).member(1, ended(161));
    let plan = world.decided(5);
    let ledger = plan.ledger.as_ref().expect("the end is written down");
    assert_eq!(ledger.phase, Phase::Succeeded);
    assert_eq!(ledger.message, "Done: accuracy 0.9900; the model is in pvc://models/a");
    assert_eq!(ledger.result.as_ref().and_then(|result| result.metric), Some(0.99));

    let lingers = training(2).running_attempt(1).member(0, completed(0, 0.99)).member(1, running());
    assert_eq!((stops(&lingers.decided(5)), lingers.decided(5).wake), (vec![], Some(at(30))));
    assert_eq!(stops(&lingers.decided(30)), ["1/1 gracefully"]);
}

#[test]
fn a_suspended_job_stops_keeps_its_budget_and_goes_on_with_the_next_attempt() {
    let world = training(2).running_attempt(1).member(0, running()).member(1, running()).at_step(40);
    let (suspended, plan) = world.wishing(|job| job.suspend = true).decided_twice(10);
    assert_eq!(stops(&plan), ["1/0 gracefully", "1/1 gracefully"]);

    let mut stopped = suspended.then(&plan);
    stopped.members[0].state = ended(143);
    stopped.members[1].state = ended(137);
    let plan = stopped.decided(20);
    let ledger = plan.ledger.as_ref().expect("the end is written down");
    assert_eq!(
        (ledger.phase, ledger.failures, ledger.active_seconds, ledger.active_since),
        (Phase::Suspended, 0, 20, None)
    );

    let resumed = stopped.then(&plan).wishing(|job| job.suspend = false);
    let plan = resumed.decided(1000);
    assert_eq!(starts(&plan), ["2/0", "2/1"]);
    let ledger = plan.ledger.expect("the start is written down");
    assert_eq!((ledger.active_seconds, ledger.active_since), (20, Some(at(1000))));
}

#[test]
fn a_job_that_is_suspended_before_it_starts_starts_nothing() {
    let world = training(1).wishing(|job| job.suspend = true);
    let plan = world.decided(0);
    assert_eq!((starts(&plan), stands(&world, &plan)), (vec![], (Phase::Suspended, 0, 0, 0)));
    assert!(world.then(&plan).decided(1).is_empty());
}

#[test]
fn the_deadline_counts_time_not_suspended_and_does_not_start_anew() {
    let world =
        training(1).running_attempt(2).member(0, running()).wishing(|job| job.active_deadline_seconds = Some(100));
    let world = world.remembering(|ledger| ledger.active_seconds = 60);
    assert_eq!(world.decided(39).wake, Some(at(40)));
    let plan = world.decided(40);
    let ledger = plan.ledger.as_ref().expect("the end is written down");
    assert_eq!(ledger.failure.as_ref().map(|(why, _)| *why), Some(FinalReason::DeadlineExceeded));
    assert_eq!(stops(&world.decided_twice(40).1), ["2/0 gracefully"]);
}

#[test]
fn a_job_that_was_done_when_its_deadline_passed_has_succeeded() {
    let world = training(1).wishing(|job| job.active_deadline_seconds = Some(60)).running_attempt(1);
    let late = world.member(0, ended(0)).decided(100);
    assert_eq!(late.ledger.map(|ledger| ledger.phase), Some(Phase::Succeeded));
}

#[test]
fn a_gang_that_stands_still_is_restarted() {
    let world = training(1).running_attempt(1).member(0, running()).at_step(7);
    let world = world.wishing(|job| job.stall_deadline_seconds = Some(60));
    let plan = world.decided(0);
    let seen = world.then(&plan);
    assert_eq!((stops(&seen.decided(59)), seen.decided(59).wake), (vec![], Some(at(60))));
    let (stalled, plan) = seen.decided_twice(60);
    assert_eq!(stops(&plan), ["1/0 gracefully"]);
    assert_eq!(stands(&stalled, &plan).0, Phase::Restarting);
    assert!(stalled.ledger.stalled);
    let moved = stalled.at_step(8);
    let plan = moved.decided(70);
    assert!(!moved.then(&plan).ledger.stalled);
    assert!(stops(&seen.at_step(8).decided(60)).is_empty(), "it moved");
}

#[test]
fn a_gang_that_stands_still_after_a_step_that_was_not_noted_at_once_is_restarted() {
    let world = training(1).running_attempt(1).member(0, running()).at_step(7);
    let world = world.wishing(|job| job.stall_deadline_seconds = Some(60));
    let noted = world.clone().then(&world.decided(0)).at_step(8);
    let plan = noted.decided(10);
    assert_eq!((plan.ledger, plan.wake), (None, Some(at(30))), "progress is noted twice a minute at most");
    let plan = noted.decided(30);
    let hangs = noted.then(&plan);
    assert_eq!(hangs.decided(89).wake, Some(at(90)));
    assert_eq!(stops(&hangs.decided_twice(90).1), ["1/0 gracefully"]);
}

#[test]
fn a_shard_not_heard_of_again_yet_takes_no_progress_back() {
    let world = scoring(2, 2).running_attempt(1).gang(1, 1, Stage::Running).member(0, running()).member(1, running());
    let world = world.at_step(50);
    let told = world.clone().then(&world.decided(0));
    let anew = World { heard: told.heard.clone(), ..told.clone().at_step(30) };
    assert_eq!(anew.decided(60).ledger, None);
    let more = told.at_step(60).decided(60).ledger.expect("it is noted");
    assert_eq!(more.progress.map(|progress| progress.step), Some(60));
}

#[test]
fn what_a_member_that_is_told_to_stop_exits_with_is_no_failure_of_its_own() {
    let told = |mut world: World, state: MemberState| {
        world.members[1].state = state;
        world.members[1].stopping_since = Some(at(0));
        world
    };
    let two = || training(2).running_attempt(1).member(0, running()).member(1, running());
    // torchrun exits with 1 when it is terminated.
    let (suspended, _) = two().wishing(|job| job.suspend = true).decided_twice(0);
    let mut stopped = told(suspended, ended(1));
    stopped.members[0].state = ended(143);
    assert_eq!(stands(&stopped, &stopped.decided(1)), (Phase::Suspended, 1, 0, 0));

    let mut failing = two();
    failing.members[0].state = ended(162);
    let (failing, _) = failing.decided_twice(0);
    let stopped = told(failing.clone(), ended(1));
    assert_eq!(stands(&stopped, &stopped.decided(1)), (Phase::Restarting, 1, 0, 1), "storage may come back");
    // A code of the contract says more than that it was stopped.
    let broken = told(failing, ended(65));
    assert_eq!(stands(&broken, &broken.decided(1)).0, Phase::Failed);
}

#[test]
fn an_exit_code_outside_the_contract_says_less_than_the_loss_of_a_node() {
    let mut world = training(2).running_attempt(1).member(0, MemberState::Unreachable).member(1, ended(1));
    world.members[0].node = Some("n".to_owned());
    let ledger = world.decided(1).ledger.expect("the end is written down");
    assert_eq!((ledger.phase, ledger.attempts[0].failure.cause), (Phase::Restarting, Cause::NodeFault));
}

#[test]
fn evictions_in_a_row_cost_nothing_and_wait_longer_each_time() {
    let evicted = |state: &mut MemberState| {
        let MemberState::Ended(end) = state else { panic!("it has ended") };
        end.cause = Cause::Preempted;
    };
    let mut waits = Vec::new();
    let mut world = training(1).running_attempt(1).member(0, ended(137));
    for _ in 0..3 {
        evicted(&mut world.members[0].state);
        let ledger = world.decided(5).ledger.expect("the end is written down");
        assert_eq!(ledger.failures, 0);
        let Stage::Waiting { not_before } = ledger.gangs[&0].stage else { panic!("{:?}", ledger.gangs) };
        waits.push(not_before.as_second() - at(5).as_second());
        world = training(1).remembering(|memory| *memory = ledger).running_attempt(1).member(0, ended(137));
    }
    assert!((10..=12).contains(&waits[0]) && waits[1] >= 20 && waits[2] >= 40, "{waits:?}");
    // One that was asked to end, or that had run for long, is no sign of more.
    let asked = training(1).running_attempt(1).member(0, ended(143)).decided(5).ledger.expect("the end");
    assert_eq!(asked.gangs[&0].stage, waiting(5));
    let mut late = training(1).running_attempt(1).member(0, ended(137));
    evicted(&mut late.members[0].state);
    assert_eq!(late.decided(700).ledger.expect("the end").gangs[&0].stage, waiting(700));
}

#[test]
fn what_has_completed_or_came_late_does_not_stand_still() {
    let impatient = |job: &mut crate::observe::Job| job.stall_deadline_seconds = Some(60);
    let world = training(2).running_attempt(1).member(0, running()).member(1, running()).at_step(7).wishing(impatient);
    let plan = world.decided(0);
    let mut ends = world.then(&plan);
    ends.members[0].state = completed(0, 0.9);
    let plan = ends.decided(70);
    assert_eq!((stands(&ends, &plan).0, stops(&plan)), (Phase::Running, vec!["1/1 gracefully".to_owned()]));

    let world = scoring(2, 2).running_attempt(1).gang(1, 1, Stage::Starting).member(0, running()).member(1, pending());
    let mut world = world.at_step(7).wishing(impatient);
    world.heard.remove(&1);
    let plan = world.decided(0);
    let mut late = world.then(&plan);
    late.members[1].state = running();
    let late = late.hears(1, 7);
    let late = late.clone().then(&late.decided(50));
    assert_eq!(stops(&late.decided_twice(100).1), ["1/0 gracefully"], "the other has told of itself for 50 s only");
}

#[test]
fn a_terminal_phase_is_a_latch() {
    for phase in [Phase::Succeeded, Phase::Failed] {
        let world = training(2).running_attempt(1).member(0, running()).member(1, ended(65));
        let world = world.remembering(|ledger| ledger.phase = phase).wishing(|job| job.suspend = true);
        let plan = world.decided(99);
        assert_eq!(
            (plan.ledger.clone(), starts(&plan), stops(&plan)),
            (None, vec![], vec!["1/0 gracefully".to_owned()])
        );
    }
}

#[test]
fn shards_restart_alone_under_their_parallelism() {
    let world = scoring(5, 2);
    let plan = world.decided(0);
    assert_eq!(starts(&plan), ["1/0", "1/1"]);

    let world = world.then(&plan).member_of(1, 0, ended(162)).member_of(1, 1, running());
    let plan = world.decided(1);
    assert_eq!(starts(&plan), ["1/2"], "shard 0 waits and leaves its place to shard 2");
    assert_eq!(stops(&plan), Vec::<String>::new(), "shard 1 has nothing to do with it");

    let mut world = world.then(&plan).member_of(1, 2, running());
    world.members[1].state = completed(10, 0.5);
    let plan = world.decided(100);
    assert_eq!(starts(&plan), ["2/0"], "the one that has to be tried again goes first");
}

#[test]
fn results_of_shards_add_up() {
    let world = scoring(2, 2).gang(0, 1, Stage::Running).gang(1, 1, Stage::Running);
    let world = world.member_of(1, 0, completed(30, 1.0)).member_of(1, 1, completed(10, 0.0));
    let ledger = world.decided(1).ledger.expect("the end is written down");
    let result = ledger.result.expect("a result");
    assert_eq!(ledger.phase, Phase::Succeeded);
    assert_eq!((result.rows_in, result.rows_out, result.metric), (Some(40), Some(40), Some(0.75)));
}

#[test]
fn an_output_that_two_shards_tell_of_counts_once() {
    let world = scoring(2, 2).gang(0, 1, Stage::Running).gang(1, 1, Stage::Running);
    let mut world = world.member_of(1, 0, completed(40, 0.5)).member_of(1, 1, completed(40, 0.5));
    for member in &mut world.members {
        if let MemberState::Ended(End { result: Some(result), .. }) = &mut member.state {
            result.digest = Some("sha256:0".to_owned());
        }
    }
    let result = world.decided(1).ledger.expect("the end is written down").result.expect("a result");
    assert_eq!((result.rows_in, result.metric, result.digest.as_deref()), (Some(40), Some(0.5), Some("sha256:0")));
}

#[test]
fn what_a_person_should_know_of_a_done_job_is_in_its_message() {
    let mut world = scoring(2, 2).gang(0, 1, Stage::Running).gang(1, 1, Stage::Running);
    world = world.member_of(1, 0, completed(30, 1.0)).member_of(1, 1, completed(10, 1.0));
    if let MemberState::Ended(End { result: Some(result), .. }) = &mut world.members[1].state {
        result.note = Some("The history could not be written.".to_owned());
    }
    let ledger = world.decided(1).ledger.expect("the end is written down");
    assert_eq!(
        ledger.message,
        "Done: accuracy 1.0000; the rows are in pvc://models/a. The history could not be written."
    );
}

#[test]
fn a_member_that_does_not_stop_is_killed_after_its_grace() {
    let world = training(1).running_attempt(1).member(0, running()).wishing(|job| {
        job.suspend = true;
        job.grace_seconds = Some(40);
    });
    let mut world =
        world.then(&training(1).running_attempt(1).member(0, running()).wishing(|job| job.suspend = true).decided(0));
    world.members[0].stopping_since = Some(at(0));
    assert_eq!((stops(&world.decided(39)), world.decided(39).wake), (vec![], Some(at(40))));
    assert_eq!(stops(&world.decided(40)), ["1/0 by force"]);
}

#[test]
fn progress_is_written_down_twice_a_minute_and_only_when_it_moved() {
    let world = training(1).running_attempt(1).member(0, running()).at_step(1);
    let plan = world.decided(0);
    assert!(plan.ledger.is_some(), "the first word");
    let seen = world.then(&plan);
    for (seconds, step, written) in [(29, 2, false), (30, 1, false), (30, 2, true), (300, 1, false)] {
        let plan = seen.clone().at_step(step).decided(seconds);
        assert_eq!(plan.ledger.is_some(), written, "step {step} at {seconds} s");
    }
    let prepares = training(1).running_attempt(1).member(0, running()).at_step(0);
    let prepares = prepares.clone().then(&prepares.decided(0));
    assert!(prepares.clone().at_step(1).decided(1).ledger.is_some(), "the first step is told at once");
    assert!(prepares.at_step(0).decided(1).ledger.is_none());
}

#[test]
fn the_end_of_a_job_has_what_was_heard_last() {
    let heard = |step| Progress { eta_seconds: Some(27), loss: Some(0.1), ..progress(1, step) };
    for (state, phase, step) in [(completed(8, 0.9), Phase::Succeeded, 100), (ended(65), Phase::Failed, 70)] {
        let mut world = training(1).running_attempt(1).member(0, state);
        world.ledger.progress = Some(Progress { loss: Some(2.3), ..heard(1) });
        world.ledger.progress_at = Some(noon());
        world.progress = Some(heard(70));
        let ledger = world.decided(5).ledger.expect("the end is written down");
        let known = ledger.progress.expect("progress");
        assert_eq!((ledger.phase, known.step, known.loss, known.eta_seconds), (phase, step, Some(0.1), None));
        assert_eq!(ledger.progress_at, Some(at(5)));
    }
}

#[test]
fn a_job_without_a_place_waits_and_says_why_and_starts_when_there_is_one() {
    let mut world = training(2);
    world.place = Some(Err(Obstacle { reason: "NoFittingNode".into(), message: "no GPU".into(), fails_by: None }));
    let plan = world.decided(0);
    assert_eq!(starts(&plan), [""; 0]);
    assert_eq!(stands(&world, &plan), (Phase::Pending, 0, 0, 0));
    assert_eq!(plan.ledger.as_ref().unwrap().message, "no GPU");
    assert_eq!(plan.events[0].reason, "NoFittingNode");
    let mut world = world.then(&plan);
    assert!(world.decided(1).is_empty(), "it says so once");
    world.place = Some(Ok(Placement { gpus: 2, ..Placement::default() }));
    let plan = world.decided(2);
    assert_eq!(starts(&plan), ["1/0", "1/1"]);
    let ledger = plan.ledger.unwrap();
    assert_eq!((ledger.obstacle, ledger.placement.unwrap().gpus), (None, 2));
}

#[test]
fn what_waiting_cannot_mend_fails_and_a_suspended_job_is_left_alone() {
    let obstacle =
        Obstacle { reason: "BadSpec".into(), message: "no such runtime".into(), fails_by: Some(Cause::BadSpec) };
    let mut world = training(1);
    world.place = Some(Err(obstacle));
    let plan = world.decided(0);
    assert_eq!(stands(&world, &plan), (Phase::Failed, 0, 0, 0));
    assert!(plan.ledger.unwrap().message.contains("BadSpec: no such runtime"));
    let world = world.wishing(|job| job.suspend = true);
    let plan = world.decided(0);
    assert_eq!(stands(&world, &plan).0, Phase::Suspended);
}

#[test]
fn a_place_is_asked_for_only_where_something_is_to_start() {
    let unplaced = |mut world: World| {
        world.place = None;
        world.decided(0)
    };
    for world in [training(1), training(2).gang(0, 1, waiting(0)), training(2).gang(0, 1, Stage::Starting)] {
        assert!(unplaced(world).asks_place);
    }
    let suspended = training(1).wishing(|job| job.suspend = true);
    for world in [training(1).running_attempt(1).member(0, running()), suspended] {
        assert!(!unplaced(world).asks_place);
    }
}
