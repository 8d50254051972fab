//! What people read: the phase, its sentence and the events that go with it.

use crds::contract::{Cause, JobResult, Progress};
use crds::infrastructure::Device;
use crds::status::Placement;

use super::builders::*;
use crate::observe::{Failure, FinalReason, Phase, Stage, World};

/// Phase, sentence and reasons of events that a decision comes to.
fn told(world: &World, seconds: i64) -> (Phase, String, Vec<String>) {
    let plan = world.decided(seconds);
    let ledger = plan.ledger.unwrap_or_else(|| world.ledger.clone());
    let mark = |warning| if warning { "!" } else { "" };
    let reasons = plan.events.iter().map(|event| format!("{}{}", event.reason, mark(event.warning))).collect();
    (ledger.phase, ledger.message, reasons)
}

/// The job had come to this phase before.
fn before(phase: Phase) -> impl FnOnce(World) -> World {
    move |world| world.remembering(|ledger| ledger.phase = phase)
}

#[test]
fn each_phase_has_its_sentence_and_its_event() {
    let unplaced = |mut world: World| {
        world.place = None;
        world
    };
    let running = || training(1).running_attempt(1);
    let wordless = |code: i32| running().member(0, ended(code));
    let starting = || before(Phase::Starting)(training(1).gang(0, 1, Stage::Starting));
    let pulls = {
        let mut world = starting().member(0, pending());
        world.members[0].waiting = "ErrImagePull: no such image".to_owned();
        world
    };
    let staged = {
        let mut world = running().member(0, self::running()).at_step(3);
        world.progress.as_mut().expect("progress").stage = "Validating".to_owned();
        world
    };
    let suspend = |world: World| world.wishing(|job| job.suspend = true);
    let saved = |world: World| {
        world.remembering(|ledger| ledger.progress = Some(Progress { checkpoint_step: Some(30), ..progress(1, 40) }))
    };
    let deadline = |world: World| world.wishing(|job| job.active_deadline_seconds = Some(100));
    for (world, phase, message, events) in [
        (unplaced(training(1)), Phase::Pending, "Waits to be started", vec![]),
        (training(1), Phase::Starting, "Attempt 1 starts", vec!["PodsCreated"]),
        (scoring(2, 1), Phase::Starting, "Attempt 1 starts", vec![]),
        (pulls, Phase::Starting, "Attempt 1 starts: ErrImagePull: no such image", vec!["PodNotStarting!"]),
        (starting().member(0, self::running()), Phase::Running, "Attempt 1 runs", vec!["AllRunning"]),
        (staged, Phase::Running, "Validating", vec![]),
        (suspend(running().member(0, self::running())), Phase::Running, "Commits a checkpoint, then stops", vec![]),
        (suspend(starting().member(0, pending())), Phase::Starting, "Is stopped before it runs", vec![]),
        (
            training(2).running_attempt(1).member(0, ended(161)).member(1, self::running()),
            Phase::Restarting,
            "Attempt 1 ended by PeerLost: exited with code 161 without a word; the rest of it is being stopped",
            vec![],
        ),
        (
            wordless(162),
            Phase::Restarting,
            "Attempt 1 ended by Storage: exited with code 162 without a word",
            vec!["Restarting!"],
        ),
        (unplaced(training(1).gang(0, 1, waiting(0))), Phase::Restarting, "Starts again", vec![]),
        (
            suspend(saved(wordless(143))),
            Phase::Suspended,
            "Suspended; a checkpoint is committed at step 30",
            vec!["Suspended"],
        ),
        (suspend(training(1)), Phase::Suspended, "Suspended", vec!["Suspended"]),
        (wordless(0), Phase::Succeeded, "Done", vec!["Completed"]),
        (wordless(65), Phase::Failed, "BadData: exited with code 65 without a word", vec!["BadData!"]),
        (
            wordless(160).wishing(|job| job.elsewhere = false),
            Phase::Failed,
            "NodeFault: exited with code 160 without a word; there is no other node to try",
            vec!["NodeFault!"],
        ),
        (
            wordless(162).remembering(|ledger| ledger.failures = 3),
            Phase::Failed,
            "Storage: exited with code 162 without a word; all 3 restarts of spec.runPolicy.backoffLimit are spent",
            vec!["BackoffLimitExceeded!"],
        ),
        (
            deadline(running().member(0, self::running())),
            Phase::Failed,
            "DeadlineExceeded: active for 100 s of the 100 s that spec.runPolicy.activeDeadlineSeconds allows. raise it, \
             or leave it out",
            vec!["DeadlineExceeded!"],
        ),
    ] {
        let events = events.into_iter().map(str::to_owned).collect::<Vec<String>>();
        assert_eq!(told(&world, 100), (phase, message.to_owned(), events), "{world:?}");
    }
}

#[test]
fn an_attempt_that_the_cluster_ended_is_told_of_and_one_that_was_suspended_is_not_told_twice() {
    let disrupted = training(1).running_attempt(1).member(0, crate::observe::MemberState::Gone);
    let preempted = || training(1).running_attempt(1).member(0, ended(143));
    let failed = training(1).running_attempt(1).member(0, ended(162));
    let suspended = preempted().wishing(|job| job.suspend = true);
    for (world, reasons) in [
        (disrupted, vec!["Disrupted"]),
        (preempted(), vec!["Preempted"]),
        (failed, vec!["Restarting!"]),
        (suspended, vec!["Suspended"]),
    ] {
        assert_eq!(told(&world, 100).2, reasons);
        let plan = world.decided(100);
        assert!(world.then(&plan).decided(100).events.iter().all(|event| event.reason == "PodsCreated"), "once");
    }
    let note = &preempted().decided(100).events[0].note;
    assert_eq!(note, "Attempt 1 ended by Preempted: stopped (SIGTERM); the next attempt starts at once");
}

#[test]
fn a_job_that_goes_on_after_a_suspension_is_told_of_once() {
    let suspended = before(Phase::Suspended)(training(1)).wishing(|job| job.suspend = true);
    let resumed = suspended.wishing(|job| job.suspend = false);
    let plan = resumed.decided(0);
    let reasons = |plan: &crate::decide::Plan| plan.events.iter().map(|it| it.reason.clone()).collect::<Vec<_>>();
    assert_eq!(reasons(&plan), ["PodsCreated", "Resumed"]);
    assert_eq!(reasons(&resumed.then(&plan).decided(1)), [""; 0]);
}

#[test]
fn what_keeps_pods_from_starting_is_told_once_for_each_attempt_whatever_else_is_said_of_it() {
    let waits = |mut world: World, why: &str| {
        world.members[0].waiting = why.to_owned();
        world
    };
    let starting =
        |attempt| before(Phase::Starting)(training(1).gang(0, attempt, Stage::Starting)).member(0, pending());
    let first = waits(starting(1), "ErrImagePull: no such image");
    let plan = first.decided(0);
    assert_eq!(plan.events[0].note, "Attempt 1 does not start yet: ErrImagePull: no such image");
    let told = first.then(&plan);
    assert!(told.decided(1).is_empty());
    for why in ["ImagePullBackOff: back-off", "", "ErrImagePull: no such image"] {
        assert_eq!(waits(told.clone(), why).decided(2).events, [], "{why}");
    }
    let next = waits(starting(2), "Unschedulable: 0/3 nodes").remembering(|ledger| ledger.waits_told = 1);
    assert_eq!(next.decided(3).events.len(), 1);
    let queued = waits(starting(1), "SchedulingGated: held by its queue").decided(0);
    assert!(!queued.events[0].warning);
}

#[test]
fn a_job_that_may_go_either_way_tells_when_it_comes_to_run_on_cpus() {
    let placed = |auto: bool, device, before: Option<Device>| {
        let mut world = training(1).wishing(|job| job.is_auto = auto);
        let place = |device| Placement { device, reason: "no node has GPUs".to_owned(), ..Placement::default() };
        world.place = Some(Ok(place(device)));
        world.ledger.placement = before.map(place);
        let events = world.decided(0).events;
        events.into_iter().find(|event| event.reason == "NoGpu").map(|event| event.note)
    };
    let says = Some("Attempt 1 runs on CPUs: no node has GPUs".to_owned());
    assert_eq!(placed(true, Device::Cpu, None), says);
    assert_eq!(placed(true, Device::Cpu, Some(Device::Gpu)), says);
    assert_eq!(placed(true, Device::Cpu, Some(Device::Cpu)), None, "it did before");
    assert_eq!(placed(true, Device::Gpu, None), None);
    assert_eq!(placed(false, Device::Cpu, None), None, "it was asked for");
}

#[test]
fn a_failure_says_where_it_was_and_what_to_do() {
    let end = |code: i32| {
        let mut world = training(1).running_attempt(1).member(0, ended(code));
        world.members[0].node = Some("n1".to_owned());
        let crate::observe::MemberState::Ended(end) = &mut world.members[0].state else { panic!("it has ended") };
        (end.rank, end.step, end.message, end.hint) = (Some(3), Some(40), "it broke.".to_owned(), "mend it".to_owned());
        world
    };
    assert_eq!(told(&end(65), 0).1, "BadData: it broke (node n1, rank 3, step 40). mend it");
    let plan = end(162).decided(0);
    let ledger = plan.ledger.as_ref().expect("it is written down");
    assert_eq!(ledger.message, "Attempt 1 ended by Storage (node n1, rank 3, step 40): it broke. mend it");
    assert_eq!(ledger.attempts[0].failure.message, "it broke. mend it");
    let nowhere = end(160).wishing(|job| job.elsewhere = false);
    let nowhere = nowhere.remembering(|ledger| ledger.excluded = [("n0".to_owned(), None)].into());
    let text =
        "NodeFault: it broke (node n1, rank 3, step 40); there is no other node to try: left out are n0, n1. mend it";
    assert_eq!(told(&nowhere, 0).1, text);
}

#[test]
fn a_gang_that_stands_still_is_told_of_with_the_member_that_leads_it() {
    let world = scoring(2, 2).gang(0, 1, Stage::Running).gang(1, 1, Stage::Running);
    let world = world.member(0, completed(1, 1.0)).member(1, running()).at_step(7);
    let world = world.wishing(|job| job.stall_deadline_seconds = Some(60));
    let plan = world.decided(0);
    let still = world.then(&plan);
    let plan = still.decided(60);
    assert_eq!(plan.events.iter().map(|event| event.reason.as_str()).collect::<Vec<_>>(), ["NoProgress"]);
    let gangs = plan.ledger.expect("it is written down").gangs;
    let Some(Stage::Failing { failure }) = gangs.get(&1).map(|gang| gang.stage.clone()) else { panic!("{gangs:?}") };
    assert_eq!((failure.cause, failure.member, failure.step), (Cause::PeerLost, 1, Some(7)));
}

#[test]
fn the_progress_of_an_older_attempt_says_nothing_of_this_one() {
    let world =
        training(1).running_attempt(2).member(0, running()).wishing(|job| job.stall_deadline_seconds = Some(60));
    let world = world.remembering(|ledger| {
        (ledger.progress, ledger.progress_at) = (Some(progress(1, 7)), Some(noon()));
    });
    assert_eq!(stops(&world.decided(600)), [""; 0], "the new attempt has not reported yet");
    let plan = world.at_step(7).decided(1);
    let written = plan.ledger.and_then(|ledger| ledger.progress);
    assert_eq!(written, Some(progress(2, 7)), "its first word is written down at once");
}

#[test]
fn a_job_that_is_suspended_fails_by_what_will_never_work_and_by_nothing_else() {
    for (code, elsewhere, phase, failures) in
        [(65, true, Phase::Failed, 1), (160, false, Phase::Suspended, 0), (162, true, Phase::Suspended, 0)]
    {
        let world = training(1).running_attempt(1).member(0, ended(code)).remembering(|ledger| ledger.failures = 0);
        let world = world.wishing(|job| (job.suspend, job.elsewhere, job.backoff_limit) = (true, elsewhere, 0));
        assert_eq!(stands(&world, &world.decided(5)), (phase, 1, 0, failures), "exit code {code}");
    }
}

#[test]
fn no_more_nodes_are_left_out_than_a_status_names() {
    let kept = crds::status::NODES_KEPT;
    for (others, node, known) in [(kept - 1, "new", true), (kept, "new", false), (kept, "n0", true)] {
        let mut world = training(1).running_attempt(1).member(0, ended(160)).remembering(|ledger| {
            ledger.excluded = (0..others).map(|number| (format!("n{number}"), Some(at(500)))).collect();
        });
        world.members[0].node = Some(node.to_owned());
        let excluded = world.decided(0).ledger.expect("it is written down").excluded;
        assert_eq!(excluded.get(node) == Some(&Some(at(3600))), known, "{others} others, {node}");
    }
}

#[test]
fn the_history_keeps_the_first_attempt_and_the_last_nine() {
    let mut world = training(1).wishing(|job| job.backoff_limit = 100);
    for attempt in 1..=12 {
        world.members.clear();
        world = world.running_attempt(attempt).member_of(attempt, 0, ended(162));
        let plan = world.decided(0);
        world = world.then(&plan);
    }
    let numbers: Vec<u32> = world.ledger.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
}

#[test]
fn each_attempt_that_ends_is_told_of_though_the_history_keeps_ten() {
    let world = (0..40).fold(scoring(40, 40), |world, shard| {
        let end = if shard % 2 == 0 { completed(1, 0.0) } else { ended(162) };
        world.gang(shard, 1, Stage::Running).member(shard, end)
    });
    let plan = world.decided(0);
    assert_eq!(plan.ledger.as_ref().map(|ledger| ledger.attempts.len()), Some(crds::status::ATTEMPTS_KEPT));
    assert_eq!(plan.ended.len(), 40);
    let failed = plan.ended.iter().filter(|attempt| attempt.failure.cause == Cause::Storage);
    assert_eq!(failed.count(), 20);
    assert_eq!(world.then(&plan).decided(0).ended, [], "once");
}

#[test]
fn results_without_rows_add_up_too() {
    let bare = |metric| JobResult { uri: "file:///out".to_owned(), metric, ..JobResult::default() };
    for (first, second, metric) in [(Some(0.5), Some(0.9), Some(0.5)), (None, Some(0.9), Some(0.9)), (None, None, None)]
    {
        let world = scoring(2, 2).gang(1, 1, Stage::Running).remembering(|ledger| {
            (ledger.result, ledger.done) = (Some(bare(first)), [0].into());
        });
        let mut world = world.member_of(1, 1, completed(0, 0.0));
        let crate::observe::MemberState::Ended(end) = &mut world.members[0].state else { panic!("it has ended") };
        end.result = Some(bare(second));
        let result = world.decided(1).ledger.and_then(|ledger| ledger.result).expect("a result");
        assert_eq!((result.metric, result.rows_in), (metric, None));
    }
}

#[test]
fn where_all_members_are_made_no_place_is_asked_for() {
    let mut world = training(2).gang(0, 1, Stage::Starting).member(0, pending()).member(1, pending());
    world.place = None;
    assert!(!world.decided(0).asks_place);
    world.members.pop();
    assert!(world.decided(0).asks_place);
}

#[test]
fn a_job_without_a_place_is_looked_at_again_when_a_node_may_be_used_again() {
    let mut world = training(1).remembering(|ledger| {
        ledger.excluded =
            [("a".to_owned(), Some(at(900))), ("b".to_owned(), Some(at(600))), ("c".to_owned(), None)].into();
    });
    let obstacle = crate::observe::Obstacle { reason: "NoFittingNode".into(), message: "none".into(), fails_by: None };
    world.place = Some(Err(obstacle));
    assert_eq!(world.decided(0).wake, Some(at(600)));
}

#[test]
fn a_plan_is_empty_when_nothing_at_all_is_to_be_done() {
    let start = training(1).decided(0);
    let only = |change: fn(&mut crate::decide::Plan, crate::decide::Plan)| {
        let mut plan = crate::decide::Plan::default();
        change(&mut plan, training(1).decided(0));
        plan.is_empty()
    };
    assert!(!start.is_empty() && crate::decide::Plan::default().is_empty());
    assert!(!only(|plan, full| plan.start = full.start));
    assert!(!only(|plan, full| plan.ledger = full.ledger));
    assert!(!only(|plan, full| plan.events = full.events));
    assert!(only(|plan, _| plan.wake = Some(noon())));
    let suspended = training(1).running_attempt(1).member(0, running()).wishing(|job| job.suspend = true);
    let (_, stop) = suspended.decided_twice(0);
    assert!(!crate::decide::Plan { stop: stop.stop, ..Default::default() }.is_empty());
}

#[test]
fn a_job_that_failed_before_its_pods_were_made_says_why() {
    let failure = Failure { cause: Cause::BadSpec, message: "no such runtime.".to_owned(), ..Failure::of_job() };
    let world = training(1).remembering(|ledger| ledger.failure = Some((FinalReason::Permanent, failure)));
    assert_eq!(told(&world, 0), (Phase::Failed, "BadSpec: no such runtime".to_owned(), vec!["BadSpec!".to_owned()]));
}
