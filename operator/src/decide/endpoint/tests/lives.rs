//! Lives of endpoints whose specs, pods and models change in any order, with an operator that may die after any write and whose
//! view of what it wrote may be lost.

use crds::infrastructure::Device;
use crds::status::EndpointPhase;
use proptest::prelude::*;
use serde_json::json;

use super::builders::{choice, endpoint, model, obstacle};
use crate::decide::endpoint::Plan;
use crate::observe::endpoint::{Part, Trained, World};

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Recipe(u8),
    Model(u8),
    Replicas(u32),
    Suspend(bool),
    Autoscale(bool),
    Follow(bool),
    Place(Option<bool>),
    Refuse(bool),
    RollOut,
    Overdue,
    Lose(usize),
    DeleteDeployment,
    DeleteService,
    Tamper,
    /// The operator carries out so many writes of its plan, and dies.
    Crash(usize),
    Look,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..3_u8).prop_map(Happening::Recipe),
        (0..3_u8).prop_map(Happening::Model),
        (0..4_u32).prop_map(Happening::Replicas),
        any::<bool>().prop_map(Happening::Suspend),
        any::<bool>().prop_map(Happening::Autoscale),
        any::<bool>().prop_map(Happening::Follow),
        proptest::option::of(any::<bool>()).prop_map(Happening::Place),
        any::<bool>().prop_map(Happening::Refuse),
        Just(Happening::RollOut),
        Just(Happening::Overdue),
        (0..3_usize).prop_map(Happening::Lose),
        Just(Happening::DeleteDeployment),
        Just(Happening::DeleteService),
        Just(Happening::Tamper),
        (0..5_usize).prop_map(Happening::Crash),
        Just(Happening::Look),
    ]
}

/// The first writes of a plan.
fn cut(mut plan: Plan, writes: usize) -> Plan {
    let mut left = writes;
    let mut take = |is_there: bool| {
        let taken = is_there && left > 0;
        left -= usize::from(taken);
        taken
    };
    plan.apply.retain(|_| take(true));
    plan.roll = plan.roll.filter(|_| take(true));
    plan.resize = plan.resize.filter(|_| take(true));
    plan.remove.retain(|_| take(true));
    plan.status = plan.status.filter(|_| take(true));
    plan.events.clear();
    plan
}

fn happen(mut world: World, happening: Happening) -> World {
    match happening {
        Happening::Recipe(number) => world.with(|it| it.recipe = json!({ "number": number })),
        Happening::Model(number) => world.of_job(Trained::Model(model(&format!("pvc://models/{number}")))),
        Happening::Replicas(replicas) => world.with(|it| it.replicas = replicas),
        Happening::Suspend(suspend) => world.with(|it| it.suspend = suspend),
        Happening::Autoscale(autoscaled) => world.with(|it| it.autoscaled = autoscaled),
        Happening::Follow(follows) => world.with(|it| it.follows = follows),
        Happening::Place(place) => {
            let device = |on_gpu: bool| if on_gpu { Device::Gpu } else { Device::Cpu };
            let nowhere = || obstacle("NoFittingNode", "no node fits", false);
            world.place = Some(place.map(|on_gpu| choice(device(on_gpu))).ok_or_else(nowhere));
            world
        }
        Happening::Refuse(refuse) => {
            world.obstacle = refuse.then(|| obstacle("BadSpec", "it is bad", true));
            world
        }
        Happening::RollOut => world.rolled_out(),
        Happening::Overdue => world.overdue("it doesn't start"),
        Happening::Lose(pods) => world.lost(pods),
        Happening::DeleteDeployment => World { rollout: None, servers: Vec::new(), ..world },
        Happening::DeleteService => {
            world.parts.service = Part::Missing;
            world
        }
        Happening::Tamper => world.tampered(),
        Happening::Crash(writes) => {
            let plan = cut(world.decide(), writes);
            world.acted(plan)
        }
        Happening::Look => world.settled(),
    }
}

fn newest(world: &World) -> u32 {
    world.rollout.as_ref().and_then(|rollout| rollout.record.as_ref()).map_or(0, |record| record.number)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_numbers_never_fall_and_who_answers_is_left_alone(
        happenings in proptest::collection::vec(happening(), 1..24),
    ) {
        let mut world = endpoint(1).of_job(Trained::Model(model("pvc://models/0")));
        for happening in happenings {
            let before = world.clone();
            world = happen(world, happening);
            prop_assert!(world.status.latest_revision >= before.status.latest_revision, "{happening:?}");
            if newest(&world) > 0 && newest(&before) > 0 {
                prop_assert!(newest(&world) >= newest(&before), "{happening:?}");
            }
            let plan = world.decide();
            if let Some(record) = &plan.roll {
                let stands = world.rollout.as_ref().and_then(|rollout| rollout.record.as_ref()) == Some(record);
                prop_assert!(stands || record.number > newest(&world), "each revision has a number of its own");
                prop_assert!(world.obstacle.is_none() && !world.endpoint.suspend);
            }
            if let Some(size) = plan.resize {
                prop_assert_eq!(size.replicas, world.endpoint.wished());
            }
        }
        // Left alone, it comes to rest; and where nothing stands against it, it answers with what was wished last.
        world.obstacle = None;
        world.place = Some(Ok(choice(Device::Cpu)));
        let world = world.settled().rolled_out();
        prop_assert!(world.decide().is_empty());
        let idle = world.endpoint.wished() == 0;
        prop_assert_eq!(world.status.phase, if idle { EndpointPhase::Suspended } else { EndpointPhase::Ready });
        if !idle {
            prop_assert_eq!(world.status.revision, world.status.latest_revision);
            prop_assert_eq!(world.status.ready_replicas, world.endpoint.replicas);
        }
        prop_assert_eq!(world.parts.autoscaler == Part::AsWished, world.endpoint.autoscaled);
        // Another operator, that knows only what is written, sees no need for anything.
        prop_assert!(world.decide().is_empty());
    }
}
