//! One decision at a time.

use std::collections::BTreeSet;

use crds::infrastructure::Device;
use crds::model::ModelRef;
use crds::model_endpoint::ServiceType;
use crds::reasons::{condition, reason};
use crds::status::{EndpointPhase, Phase};
use serde_json::json;

use super::builders::{choice, endpoint, model, noon, obstacle, server, told};
use crate::decide::endpoint::{Name, Size, decide};
use crate::observe::endpoint::{Part, Record, Trained, World};

#[test]
fn a_new_endpoint_gets_its_service_its_budget_and_its_first_revision() {
    let world = endpoint(2);
    let asked = World { place: None, ..world.clone() }.decide();
    assert!(asked.asks_place && asked.apply.is_empty() && asked.status.is_none(), "nothing is done of it: {asked:?}");
    let plan = world.decide();
    assert_eq!(plan.apply, [Name::Service, Name::Budget]);
    let record = plan.roll.clone().expect("a revision");
    assert_eq!((record.number, record.model.uri.as_str(), &record.place), (1, "pvc://models/a", &choice(Device::Cpu)));
    let status = plan.status.clone().expect("a status");
    assert_eq!((status.phase, status.revision, status.latest_revision), (EndpointPhase::Starting, 0, 1));
    assert_eq!(status.url.as_deref(), Some("http://a-m.n.svc:8080"));
    assert_eq!(status.selector, "trainyard.dev/job=a,trainyard.dev/kind=ModelEndpoint");
    assert_eq!(told(&plan), BTreeSet::from([reason::NEW_REVISION]));

    let started = world.settled();
    assert_eq!(started.status.phase, EndpointPhase::Starting);
    let world = started.rolled_out();
    assert_eq!((world.status.phase, world.status.revision, world.status.ready_replicas), (EndpointPhase::Ready, 1, 2));
    assert_eq!(world.status.message, "All 2 replicas answer by revision 1");
    assert_eq!(world.status.model.as_ref().map(|model| model.uri.as_str()), Some("pvc://models/a"));
    assert_eq!(world.holds(condition::READY).as_deref(), Some("True ReplicasReady"));
    assert!(world.decide().is_empty(), "and stays as it is");
}

#[test]
fn what_makes_other_pods_makes_a_revision_and_nothing_else_does() {
    let ready = endpoint(2).settled().rolled_out();
    let recipe = |world: World| world.with(|it| it.recipe = json!({"explain": true}));
    let cases: [(&str, World, Option<u32>, Option<u32>); 8] = [
        ("the recipe", recipe(ready.clone()), Some(2), None),
        ("the model", ready.clone().with(|it| it.model.uri = Some("pvc://models/b".to_owned())), Some(2), None),
        ("replicas", ready.clone().with(|it| it.replicas = 5), None, Some(5)),
        ("suspend", ready.clone().with(|it| it.suspend = true), None, Some(0)),
        ("the deadline", ready.clone().with(|it| it.deadline_seconds = 30), None, Some(2)),
        ("the service", ready.clone().with(|it| it.service = ServiceType::NodePort), None, None),
        ("another place", ready.clone().placed(Device::Gpu), None, None),
        ("a recipe while suspended", recipe(ready.with(|it| it.suspend = true).settled()), None, None),
    ];
    for (what, world, number, replicas) in cases {
        let plan = world.decide();
        assert_eq!(plan.roll.map(|record| record.number), number, "{what}");
        assert_eq!(plan.resize.map(|size: Size| size.replicas), replicas, "{what}");
    }
}

#[test]
fn a_resumed_endpoint_is_placed_anew_and_goes_on_where_it_was_if_it_can_be_nowhere_else() {
    let suspended = endpoint(1).settled().rolled_out().with(|it| it.suspend = true).settled().rolled_out();
    assert_eq!(suspended.status.phase, EndpointPhase::Suspended);
    assert_eq!(suspended.holds(condition::SUSPENDED).as_deref(), Some("True Suspended"));
    let resumed = suspended.with(|it| it.suspend = false);
    assert!(World { place: None, ..resumed.clone() }.decide().asks_place);

    let same = resumed.decide();
    assert_eq!((same.roll.clone(), same.resize.map(|size| size.replicas)), (None, Some(1)));
    assert!(told(&same).contains(reason::RESUMED), "{same:?}");
    let elsewhere = resumed.clone().placed(Device::Gpu).decide();
    assert_eq!(elsewhere.roll.map(|record| (record.number, record.place.device)), Some((2, Device::Gpu)));
    let nowhere = resumed.unplaced(obstacle(reason::NO_FITTING_NODE, "no node has a GPU", false)).decide();
    assert_eq!((nowhere.roll, nowhere.resize.map(|size| size.replicas)), (None, Some(1)));
}

#[test]
fn a_revision_that_never_gets_ready_is_held_and_the_old_one_answers() {
    let ready = endpoint(2).settled().rolled_out();
    let updating = ready.with(|it| it.model.uri = Some("pvc://models/b".to_owned())).settled();
    assert_eq!((updating.status.phase, updating.status.revision), (EndpointPhase::Updating, 1));
    let held = updating.overdue("ImagePullBackOff: no such image.");
    assert_eq!(held.status.phase, EndpointPhase::Held);
    assert_eq!(
        held.status.message,
        "Revision 2 did not get ready within 600 s: ImagePullBackOff: no such image. Revision 1 goes on answering: see to it, \
         or set the spec back to what it was"
    );
    assert_eq!((held.status.revision, held.status.latest_revision, held.status.ready_replicas), (1, 2, 2));
    assert_eq!(held.status.model.as_ref().map(|model| model.uri.as_str()), Some("pvc://models/a"));
    assert_eq!(held.holds(condition::READY).as_deref(), Some("True ReplicasReady"));
    assert_eq!(held.holds(condition::PROGRESSING).as_deref(), Some("False ProgressDeadlineExceeded"));

    // Set back, it is a third revision; and one that gets ready after all takes over.
    let back = held.clone().with(|it| it.model.uri = Some("pvc://models/a".to_owned())).decide();
    assert_eq!(back.roll.map(|record| record.number), Some(3));
    let after_all = held.rolled_out();
    assert_eq!((after_all.status.phase, after_all.status.revision), (EndpointPhase::Ready, 2));

    let first = endpoint(1).settled().overdue("no node has a place for it: 0/4 nodes are available");
    assert_eq!(first.status.phase, EndpointPhase::Failed, "there is no old one");
    assert!(first.status.message.contains("Nothing answers: see to it"), "{}", first.status.message);
}

#[test]
fn what_cannot_be_made_is_told_and_changes_nothing_for_who_answers() {
    let bad = || obstacle(reason::BAD_SPEC, "spec.precision: Float16 is not supported", true);
    let nowhere = || obstacle(reason::NO_FITTING_NODE, "no node has 80Gi. Lower gpu.minMemory", false);
    for (what, world, phase, told_reason) in [
        ("a bad spec", endpoint(1).refused(bad()), EndpointPhase::Failed, reason::BAD_SPEC),
        ("no node", endpoint(1).unplaced(nowhere()), EndpointPhase::Pending, reason::NO_FITTING_NODE),
        ("no job", endpoint(1).of_job(Trained::Missing), EndpointPhase::Pending, reason::WAITING_FOR_MODEL),
        (
            "no model yet",
            endpoint(1).of_job(Trained::Without(Phase::Running)),
            EndpointPhase::Pending,
            reason::WAITING_FOR_MODEL,
        ),
    ] {
        let plan = world.decide();
        assert!(plan.roll.is_none() && told(&plan).contains(told_reason), "{what}: {plan:?}");
        let world = world.settled();
        assert_eq!(world.status.phase, phase, "{what}");
        assert_eq!(world.holds(condition::SCHEDULABLE), Some(format!("False {told_reason}")), "{what}");
        assert!(!world.status.message.is_empty(), "{what}");
    }
    let changed = || endpoint(1).settled().rolled_out().with(|it| it.recipe = json!({"explain": true}));
    for (world, message) in [
        (changed().refused(bad()), "Spec.precision: Float16 is not supported. Revision 1 goes on answering"),
        (changed().unplaced(nowhere()), "No node has 80Gi. Lower gpu.minMemory. Revision 1 goes on answering"),
    ] {
        let world = world.settled();
        assert_eq!((world.status.phase, world.status.ready_replicas), (EndpointPhase::Held, 1));
        assert!(world.status.message.starts_with(message), "{}", world.status.message);
        assert_eq!(world.holds(condition::READY).as_deref(), Some("True ReplicasReady"));
    }
}

#[test]
fn what_the_api_server_refuses_is_not_sent_again_and_again() {
    let mut world = endpoint(1).settled().rolled_out();
    world.parts.service = Part::Differs;
    let refused = world.refused(obstacle(reason::BAD_SPEC, "the API server refuses what the endpoint needs", true));
    let plan = refused.decide();
    assert!(plan.apply.is_empty() && told(&plan).contains(reason::BAD_SPEC), "{plan:?}");
    assert!(refused.settled().decide().is_empty());
}

#[test]
fn the_model_of_a_job_stays_unless_a_newer_one_is_followed() {
    let first = || Trained::Model(model("pvc://models/1"));
    let newer = || Trained::Model(model("pvc://models/2"));
    let ready = endpoint(1).of_job(first()).settled().rolled_out();
    assert_eq!(ready.status.model.as_ref().and_then(|it| it.digest.as_deref()), Some("sha256:pvc://models/1"));
    for (what, follows, trained, rolls) in [
        ("a newer one, not followed", false, newer(), false),
        ("a newer one, followed", true, newer(), true),
        ("the same, followed", true, first(), false),
        ("a job that trains anew", true, Trained::Without(Phase::Running), false),
        ("a job that has failed since", true, Trained::Without(Phase::Failed), false),
        ("a job that is gone", false, Trained::Missing, false),
    ] {
        let world = ready.clone().of_job(trained).with(|it| it.follows = follows);
        assert_eq!(world.decide().roll.is_some(), rolls, "{what}");
    }
    let other = ready.of_job(Trained::Missing).with(|it| it.model.training_job = Some("other".to_owned())).settled();
    assert_eq!((other.status.phase, other.status.revision), (EndpointPhase::Held, 1));
    assert!(
        other.status.message.starts_with("Waits for the TrainingJob other: there is none"),
        "{}",
        other.status.message
    );
}

#[test]
fn an_endpoint_whose_deployment_and_job_are_gone_comes_back_with_the_model_that_answered() {
    let ready = endpoint(1).of_job(Trained::Model(model("pvc://models/1"))).settled().rolled_out();
    assert_eq!(ready.status.training_job.as_deref(), Some("flowers"));
    let lost = World { rollout: None, servers: Vec::new(), ..ready }.of_job(Trained::Missing);
    let record = lost.decide().roll.expect("a revision");
    assert_eq!((record.number, record.training_job.as_deref()), (2, Some("flowers")));
    assert_eq!(record.model, model("pvc://models/1"));
    let back = lost.clone().settled().rolled_out();
    assert_eq!((back.status.phase, back.status.revision), (EndpointPhase::Ready, 2));

    let newer = lost.clone().of_job(Trained::Model(model("pvc://models/2")));
    let uri = |world: World| world.decide().roll.map(|record| record.model.uri);
    assert_eq!(uri(newer.clone()).as_deref(), Some("pvc://models/1"), "it stays");
    assert_eq!(uri(newer.with(|it| it.follows = true)).as_deref(), Some("pvc://models/2"), "it follows");

    // Of another job there is no model to fall back to; that it answered once shows in its phase.
    let other = lost.with(|it| it.model.training_job = Some("other".to_owned()));
    let plan = other.decide();
    assert!(plan.roll.is_none() && told(&plan).contains(reason::REPLICAS_UNAVAILABLE), "{plan:?}");
    let other = other.settled();
    assert_eq!(other.status.phase, EndpointPhase::Degraded);
    assert_eq!(
        other.status.message,
        "Nothing answers, its Deployment is gone: waits for the TrainingJob other: there is none of this name in the namespace"
    );
    let by_uri = back.with(|it| it.model = ModelRef { uri: Some("pvc://models/b".to_owned()), training_job: None });
    assert_eq!(by_uri.settled().rolled_out().status.training_job, None);
}

#[test]
fn numbers_of_revisions_go_on_when_the_deployment_is_lost() {
    let world = endpoint(1).settled().rolled_out();
    let lost = World { rollout: None, servers: Vec::new(), ..world };
    assert_eq!(lost.decide().roll.map(|record| record.number), Some(2));
    // Applied, and the status of it was never written.
    let crashed = endpoint(1);
    let plan = crashed.decide();
    let crashed = World { status: crashed.status.clone(), ..crashed.acted(plan) };
    assert!(crashed.decide().roll.is_none());
    assert_eq!(crashed.settled().status.latest_revision, 1);
}

#[test]
fn a_template_that_is_not_ours_is_replaced() {
    let mut world = endpoint(1).settled().rolled_out();
    if let Some(rollout) = &mut world.rollout {
        rollout.record = None;
    }
    assert_eq!(world.decide().roll.map(|record| record.number), Some(2));
}

#[test]
fn pods_that_somebody_has_changed_are_put_right_under_the_number_that_they_have() {
    let ready = endpoint(1).settled().rolled_out();
    assert_eq!(ready.status.template.as_deref(), Some("0.1.0-1"));
    let changed = ready.clone().tampered();
    assert!(World { place: None, ..changed.clone() }.decide().asks_place);
    let plan = changed.decide();
    assert_eq!(plan.roll, ready.rollout.as_ref().and_then(|rollout| rollout.record.clone()), "the same revision");
    assert_eq!(told(&plan), BTreeSet::from([reason::TEMPLATE_CHANGED]));
    // Who dies before the status is written finds it put right.
    let crashed = World { status: changed.status.clone(), ..changed.clone().acted(plan) };
    for world in [changed.clone().settled().rolled_out(), crashed.settled().rolled_out()] {
        assert_eq!((world.status.phase, world.status.revision), (EndpointPhase::Ready, 1));
        assert_eq!(world.status.template.as_deref(), Some("0.1.0-1"));
    }

    // While nothing can be made it is left as it is, and not forgotten.
    let nowhere = || obstacle(reason::NO_FITTING_NODE, "no node is left", false);
    for waits in [changed.clone().unplaced(nowhere()), changed.clone().with(|it| it.suspend = true)] {
        let waits = waits.settled();
        assert_eq!(waits.status.template.as_deref(), Some("0.1.0-1"));
        let again = waits.placed(Device::Cpu).with(|it| it.suspend = false).decide();
        assert_eq!(again.roll.map(|record| record.number), Some(1));
    }
    let elsewhere = changed.placed(Device::Gpu).decide();
    assert_eq!(elsewhere.roll.map(|record| record.number), Some(2), "a place of another kind is another revision's");

    // What an earlier operator has made is taken as it is.
    for noted in [None, Some("0.0.9-1".to_owned())] {
        let mut earlier = ready.clone().tampered();
        earlier.status.template = noted;
        assert!(earlier.decide().roll.is_none());
        assert_eq!(earlier.settled().status.template.as_deref(), Some("0.1.0-somebody"));
    }
}

#[test]
fn an_autoscaler_is_there_as_long_as_it_is_asked_for() {
    let world = endpoint(1).with(|it| it.autoscaled = true);
    assert_eq!(world.decide().apply, [Name::Service, Name::Budget, Name::Autoscaler]);
    let without = world.settled().with(|it| it.autoscaled = false);
    assert_eq!(without.decide().remove, [Name::Autoscaler]);
    assert_eq!(without.settled().parts.autoscaler, Part::Missing);
}

#[test]
fn lost_replicas_degrade_an_endpoint_and_more_of_them_are_no_loss() {
    let ready = endpoint(3).settled().rolled_out();
    let lost = ready.clone().lost(1);
    assert_eq!((lost.status.phase, lost.status.message.as_str()), (EndpointPhase::Degraded, "2 of 3 replicas answer"));
    assert_eq!(lost.holds(condition::READY).as_deref(), Some("False ReplicasUnavailable"));
    let none = ready.clone().lost(3);
    assert_eq!(
        (none.status.phase, none.status.message.as_str()),
        (EndpointPhase::Degraded, "None of 3 replicas answers")
    );
    let more = ready.with(|it| it.replicas = 4).settled();
    let event = more.status.conditions.iter().find(|condition| condition.type_ == condition::READY);
    assert_eq!(event.map(|condition| condition.status.as_str()), Some("False"));
    assert!(!told(&more.decide()).contains(reason::REPLICAS_UNAVAILABLE));
}

#[test]
fn a_pod_that_falls_back_to_cpus_is_told_of_with_its_reason() {
    let ready = endpoint(2).placed(Device::Gpu).settled().rolled_out();
    let placement = |world: &World| world.status.placement.clone().expect("a placement");
    assert_eq!((placement(&ready).device, placement(&ready).gpus), (Device::Gpu, 2));
    let plan = ready.clone().says(1, "Cpu").decide();
    assert!(told(&plan).contains(reason::NO_GPU), "{plan:?}");
    let fell_back = ready.says(1, "Cpu").settled();
    assert_eq!(placement(&fell_back).device, Device::Cpu);
    assert_eq!(placement(&fell_back).reason, "a pod with a GPU computes on CPUs: CUDA driver is too old");
    // What another revision said is no news of this one; and until one is heard, the last word stands.
    let silent = World { serving: None, ..fell_back.clone() };
    assert!(silent.decide().is_empty(), "{:?}", silent.decide());
    assert_eq!(placement(&fell_back.says(1, "Gpu").settled()).device, Device::Gpu);
}

#[test]
fn who_answers_is_the_oldest_revision_that_has_pods_which_do() {
    let updating = endpoint(2).settled().rolled_out().with(|it| it.recipe = json!({"explain": true})).settled();
    let record = |world: &World| -> Record {
        world.rollout.as_ref().and_then(|rollout| rollout.record.clone()).expect("a record")
    };
    let (old, new) = (updating.servers[0].record.clone().expect("a record"), record(&updating));
    let mut world = updating;
    world.servers = vec![server(&old, 0, true), server(&new, 0, true)];
    assert_eq!(decide(&world, noon()).status.map_or(world.status.revision, |status| status.revision), 1);
    world.servers[0].is_ready = false;
    assert_eq!(decide(&world, noon()).status.map(|status| status.revision), Some(2));
}
