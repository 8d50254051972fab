//! What each failure comes to: one decision each, this world, that plan.

use super::builders::*;
use crate::observe::{FinalReason, MemberState, Phase, Stage};

#[test]
fn each_cause_has_its_end() {
    // One node, one member that ended with this code; 3 failures are allowed.
    for (code, elsewhere, phase, failures, why) in [
        (64, true, Phase::Failed, 1, Some(FinalReason::Permanent)),
        (65, true, Phase::Failed, 1, Some(FinalReason::Permanent)),
        (66, true, Phase::Failed, 1, Some(FinalReason::Permanent)),
        (69, true, Phase::Restarting, 1, None),
        (69, false, Phase::Failed, 1, Some(FinalReason::NowhereElse)),
        (70, true, Phase::Failed, 1, Some(FinalReason::Permanent)),
        (71, true, Phase::Failed, 1, Some(FinalReason::Permanent)),
        (72, true, Phase::Failed, 1, Some(FinalReason::Permanent)),
        (73, true, Phase::Failed, 1, Some(FinalReason::Permanent)),
        (77, true, Phase::Failed, 1, Some(FinalReason::Permanent)),
        (1, true, Phase::Failed, 1, Some(FinalReason::Permanent)),
        (143, true, Phase::Restarting, 0, None),
        (160, true, Phase::Restarting, 1, None),
        (160, false, Phase::Failed, 1, Some(FinalReason::NowhereElse)),
        (161, false, Phase::Restarting, 1, None),
        (162, false, Phase::Restarting, 1, None),
        (137, false, Phase::Restarting, 1, None),
        (255, false, Phase::Restarting, 1, None),
    ] {
        let world = training(1).running_attempt(1).member(0, ended(code)).wishing(|job| job.elsewhere = elsewhere);
        let plan = world.decided(5);
        let ledger = plan.ledger.clone().expect("an end is written down");
        let got = (ledger.phase, ledger.failures, ledger.failure.as_ref().map(|(why, _)| *why));
        assert_eq!(got, (phase, failures, why), "exit code {code}, elsewhere {elsewhere}: {}", ledger.message);
    }
}

#[test]
fn a_node_that_takes_no_process_or_keeps_none_is_left_out_for_ten_minutes() {
    let mut world = training(1).running_attempt(1).member(0, MemberState::Unreachable);
    world.members[0].node = Some("n1".to_owned());
    let ledger = world.decided(0).ledger.expect("the end is written down");
    assert_eq!(ledger.excluded.get("n1"), Some(&Some(at(600))));
}

#[test]
fn an_exit_code_of_a_custom_image_costs_a_restart_unless_its_manifest_says_otherwise() {
    use crds::run_policy::{ExitAction, ExitCode};
    let entry = |code, action| ExitCode { code, action };
    let codes = [
        entry(2, ExitAction::Fail),
        entry(3, ExitAction::Restart),
        entry(4, ExitAction::RestartElsewhere),
        entry(5, ExitAction::Ignore),
    ];
    for (code, phase, failures, excluded, waits) in [
        (1, Phase::Restarting, 1, false, true),
        (2, Phase::Failed, 1, false, false),
        (3, Phase::Restarting, 1, false, true),
        (4, Phase::Restarting, 1, true, true),
        (5, Phase::Restarting, 0, false, true),
        (127, Phase::Failed, 1, false, false),
    ] {
        let mut world = training(1).running_attempt(1).member(0, ended(code));
        world.members[0].node = Some("n1".to_owned());
        world.job.exit_codes = Some(codes.to_vec());
        let plan = world.decided(5);
        let ledger = plan.ledger.as_ref().expect("the end is written down");
        let got = (ledger.phase, ledger.failures, ledger.excluded.contains_key("n1"), plan.wake > Some(at(14)));
        assert_eq!(got, (phase, failures, excluded, waits), "exit code {code}: {}", ledger.message);
    }
    let mut spent = training(1).running_attempt(1).member(0, ended(1)).remembering(|ledger| ledger.failures = 3);
    spent.job.exit_codes = Some(Vec::new());
    let ledger = spent.decided(5).ledger.expect("the end is written down");
    assert_eq!(ledger.failure.map(|(why, _)| why), Some(FinalReason::BackoffLimitExceeded));
}

#[test]
fn a_node_that_was_removed_costs_no_restart_and_is_not_left_out() {
    for (since, waits) in [(0, true), (700, false)] {
        let mut world = training(2).running_attempt(1).member(0, MemberState::Gone).member(1, ended(161));
        world.members[0].node = Some("spot-1".to_owned());
        let plan = world.decided(since);
        let ledger = plan.ledger.as_ref().expect("the end is written down");
        assert_eq!((ledger.phase, ledger.failures, ledger.excluded.len()), (Phase::Restarting, 0, 0));
        assert!(ledger.message.contains("(node spot-1): its node was removed"), "{}", ledger.message);
        let later = world.then(&plan);
        assert_eq!(starts(&later.decided(since)).is_empty(), waits, "an attempt of {since} s");
        assert_eq!(starts(&later.decided(since + 12)), ["2/0", "2/1"]);
    }
}

#[test]
fn a_gang_that_is_preempted_again_and_again_waits_from_the_second_time_on() {
    let mut world = training(1).running_attempt(1).member(0, ended(143));
    let mut waits = Vec::new();
    for attempt in 2..5 {
        let ledger = world.decided(5).ledger.expect("the end is written down");
        assert_eq!(ledger.failures, 0);
        let Stage::Waiting { not_before } = ledger.gangs[&0].stage else { panic!("{:?}", ledger.gangs) };
        waits.push(not_before.as_second() - at(5).as_second());
        world = training(1).remembering(|memory| *memory = ledger).running_attempt(attempt).member(0, ended(143));
    }
    assert!(waits[0] == 0 && (20..=24).contains(&waits[1]) && (40..=48).contains(&waits[2]), "{waits:?}");
}

#[test]
fn a_preempted_gang_starts_again_at_once() {
    let world = training(1).running_attempt(1).member(0, ended(143));
    let plan = world.decided(5);
    assert_eq!((starts(&plan), plan.wake), (vec![], Some(at(5))), "first it is written down how the last one ended");
    assert_eq!(stands(&world, &plan), (Phase::Restarting, 1, 0, 0));
    let closed = world.then(&plan);
    let plan = closed.decided(5);
    assert_eq!(starts(&plan), ["2/0"]);
    assert_eq!(stands(&closed, &plan), (Phase::Starting, 2, 1, 0));
}

#[test]
fn a_shard_that_starts_again_at_once_keeps_its_place_while_its_end_is_written_down() {
    let world = scoring(3, 1).running_attempt(1).member(0, ended(143));
    let plan = world.decided(5);
    assert_eq!(starts(&plan), [""; 0]);
    assert_eq!(starts(&world.then(&plan).decided(5)), ["2/0"]);
}

#[test]
fn what_is_missing_of_an_attempt_waits_while_an_older_one_lives_whose_node_is_back() {
    let starting = training(2).gang(0, 2, Stage::Starting).member(0, pending());
    let back = starting.clone().member_of(1, 0, running());
    let plan = back.decided(5);
    assert_eq!((starts(&plan), stops(&plan)), (vec![], vec!["1/0 gracefully".to_owned()]));
    assert_eq!(starts(&starting.decided(5)), ["2/1"]);
}

#[test]
fn when_one_member_fails_the_rest_is_stopped_and_the_most_telling_cause_counts() {
    let world = training(3).running_attempt(1).member(0, ended(161)).member(1, running()).member(2, ended(161));
    let (world, plan) = world.decided_twice(5);
    assert_eq!(stops(&plan), ["1/1 gracefully"]);
    assert_eq!(stands(&world, &plan), (Phase::Restarting, 1, 0, 0), "nothing counts before all of it has ended");

    // Member 1 had run out of memory all the while: its peers only lost it.
    let mut later = world.then(&plan);
    later.members[1].state = ended(71);
    let plan = later.decided(6);
    let ledger = plan.ledger.as_ref().expect("the end is written down");
    assert_eq!(ledger.failure.as_ref().map(|(why, failure)| (*why, failure.member)), Some((FinalReason::Permanent, 1)));
    assert_eq!(stands(&later, &plan), (Phase::Failed, 1, 0, 1));
}

#[test]
fn a_member_that_we_stop_does_not_make_a_failure_free_of_charge() {
    let world = training(2).running_attempt(1).member(0, ended(161)).member(1, running());
    let plan = world.decided(5);
    let mut later = world.then(&plan);
    later.members[1].state = ended(143);
    assert_eq!(stands(&later, &later.decided(6)), (Phase::Restarting, 1, 0, 1));
}

#[test]
fn a_member_that_vanishes_fails_its_gang_once_it_had_run() {
    let world = training(2).running_attempt(1).member(0, running());
    let (world, plan) = world.decided_twice(5);
    assert_eq!(stops(&plan), ["1/0 gracefully"]);
    assert!(starts(&plan).is_empty());
    assert_eq!(stands(&world, &plan).0, Phase::Restarting);
}

#[test]
fn the_next_attempt_waits_for_its_time_and_for_the_last_member_of_the_old_one() {
    let world = training(2).gang(0, 1, waiting(60)).member(0, ended(162)).member(1, ended(161));
    let plan = world.decided(59);
    assert_eq!((starts(&plan), plan.wake), (vec![], Some(at(60))));
    assert_eq!(starts(&world.decided(60)), ["2/0", "2/1"]);

    let lives_on = training(2).gang(0, 1, waiting(60)).member(0, ended(162)).member(1, running());
    let plan = lives_on.decided(60);
    assert_eq!((starts(&plan), stops(&plan)), (vec![], vec!["1/1 gracefully".to_owned()]));

    let cut_off = training(2).gang(0, 1, waiting(60)).member(0, ended(162)).member(1, MemberState::Unreachable);
    let plan = cut_off.decided(60);
    assert_eq!(
        (starts(&plan), stops(&plan)),
        (vec!["2/0".to_owned(), "2/1".to_owned()], vec![]),
        "its number fences it off"
    );
    assert_eq!(stops(&cut_off.then(&plan).decided(61)), ["1/1 by force"]);
}

#[test]
fn the_member_that_failed_first_stays_for_its_log_until_another_one_fails() {
    let second = training(3).running_attempt(2).member(0, running()).member(1, running()).member(2, running());
    // Its peers ended because it did, or because they were told to.
    let seen = second.member_of(1, 0, ended(161)).member_of(1, 1, ended(137)).member_of(1, 2, ended(143));
    assert_eq!(stops(&seen.decided(1)), ["1/0 clear", "1/2 clear"]);

    let third = training(1).running_attempt(3).member(0, running()).member_of(1, 0, ended(162));
    assert_eq!(stops(&third.decided(1)), ["1/0 clear"], "attempt 2 had nothing to show");
}

#[test]
fn failures_are_counted_up_to_the_limit_and_messages_say_so() {
    for (before, phase) in [(0, Phase::Restarting), (2, Phase::Restarting), (3, Phase::Failed)] {
        let world = training(1).running_attempt(4).member(0, ended(162)).remembering(|ledger| ledger.failures = before);
        let plan = world.decided(5);
        let ledger = plan.ledger.expect("an end is written down");
        assert_eq!((ledger.phase, ledger.failures), (phase, before + 1));
        if phase == Phase::Failed {
            assert!(
                ledger.message.contains("all 3 restarts of spec.runPolicy.backoffLimit are spent"),
                "{}",
                ledger.message
            );
        }
    }
}

#[test]
fn the_waiting_time_doubles_and_begins_anew_after_progress() {
    let failed = |streak, streak_step, step| {
        let world = training(1).running_attempt(2).member(0, ended(162)).at_step(step).remembering(|ledger| {
            let gang = ledger.gangs.get_mut(&0).expect("a gang");
            (gang.streak, gang.streak_step) = (streak, streak_step);
        });
        let wake = world.decided(0).wake.expect("it waits");
        (
            wake.as_second() - noon().as_second(),
            world.decided(0).ledger.map(|ledger| (ledger.gangs[&0].streak, ledger.gangs[&0].streak_step)),
        )
    };
    for (streak, streak_step, step, least, after) in
        [(0, 0, 0, 10, (1, 0)), (1, 0, 0, 20, (2, 0)), (3, 50, 50, 80, (4, 50)), (3, 50, 51, 10, (1, 51))]
    {
        let (wait, remembered) = failed(streak, streak_step, step);
        assert!((least..=least + least / 5).contains(&wait), "streak {streak}: {wait} s");
        assert_eq!(remembered, Some(after));
    }
}

#[test]
fn a_node_at_fault_is_left_out_for_an_hour_and_one_that_does_not_fit_for_good() {
    for (code, until) in [(160, Some(at(3600))), (69, None)] {
        let mut world = training(1).running_attempt(1).member(0, ended(code));
        world.members[0].node = Some("n1".into());
        let plan = world.decided(0);
        let ledger = plan.ledger.clone().unwrap();
        assert_eq!(ledger.excluded.get("n1"), Some(&until), "exit code {code}");
        assert!(plan.events.iter().any(|event| event.reason == "NodeExcluded"));
        let later = world.then(&plan).decided(3600);
        let excluded = later.ledger.unwrap().excluded;
        assert_eq!(excluded.contains_key("n1"), until.is_none(), "exit code {code}");
    }
}
