//! Whole histories with random faults, crashes between any two writes, and suspensions: what must hold in each of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::builders::*;
use crate::build::status;
use crate::decide::{How, Plan, decide};
use crate::observe::{End, Ledger, Member, MemberId, MemberState, Phase, World};

/// Something that happens between two decisions.
#[derive(Clone, Debug)]
enum Happening {
    /// Seconds go by.
    Time(i64),
    /// The n-th live member starts to run.
    Runs(usize),
    /// The n-th live member ends with this code.
    Ends(usize, i32),
    /// The n-th member disappears without a trace.
    Vanishes(usize),
    /// The n-th live member's node can't be reached any more.
    CutOff(usize),
    /// Rank 0 reports this step.
    Progress(u64),
    /// The job is suspended or goes on.
    Suspend(bool),
    /// The next plan is carried out up to so many of its acts, in order.
    Crash(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    let code = prop::sample::select(vec![0, 0, 0, 65, 69, 137, 143, 160, 161, 162]);
    prop_oneof![
        4 => (0_i64..200).prop_map(Happening::Time),
        8 => (0_usize..4).prop_map(Happening::Runs),
        4 => (0_usize..4, code).prop_map(|(member, code)| Happening::Ends(member, code)),
        1 => (0_usize..4).prop_map(Happening::Vanishes),
        1 => (0_usize..4).prop_map(Happening::CutOff),
        2 => (0_u64..100).prop_map(Happening::Progress),
        1 => any::<bool>().prop_map(Happening::Suspend),
        2 => (0_usize..5).prop_map(Happening::Crash),
    ]
}

/// The ledger as an operator finds it that starts anew: written to a status as JSON, and read from there.
pub(super) fn through_status(world: &World) -> Ledger {
    match world.job.kind.as_str() {
        "TrainingJob" => Ledger::of(&reread(&status::training(&world.ledger, None, &[], noon())).job),
        _ => Ledger::of(&reread(&status::scoring(&world.ledger, None, &[], noon())).job),
    }
}

fn reread<T: serde::Serialize + serde::de::DeserializeOwned>(status: &T) -> T {
    serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap()
}

/// A world that plans are carried out in.
struct Simulation {
    world: World,
    seconds: i64,
    created: BTreeMap<MemberId, u32>,
    next_uid: u32,
    looks: u32,
}

impl Simulation {
    fn happens(&mut self, happening: &Happening) -> Option<usize> {
        let seconds = self.seconds;
        let live: Vec<usize> = (0..self.world.members.len()).filter(|n| self.world.members[*n].is_live()).collect();
        let pick = |n: usize| live.get(n % live.len().max(1)).copied();
        match happening {
            Happening::Time(passed) => self.seconds += passed,
            Happening::Runs(n) => {
                if let Some(n) = pick(*n) {
                    self.world.members[n].state = MemberState::Running;
                }
            }
            Happening::Ends(n, code) => {
                if let Some(n) = pick(*n) {
                    self.world.members[n].state = MemberState::Ended(End::from_exit(*code, None, at(seconds)));
                }
            }
            Happening::Vanishes(n) => {
                if !self.world.members.is_empty() {
                    let n = n % self.world.members.len();
                    self.world.members.remove(n);
                }
            }
            Happening::CutOff(n) => {
                if let Some(n) = pick(*n) {
                    self.world.members[n].state = MemberState::Unreachable;
                }
            }
            Happening::Progress(step) => self.world = self.world.clone().at_step(*step),
            Happening::Suspend(suspend) => self.world.job.suspend = *suspend,
            Happening::Crash(acts) => return Some(*acts),
        }
        None
    }

    /// Carries a plan out up to `acts` of its acts: starts, stops, then the ledger.
    fn act(&mut self, plan: &Plan, acts: usize) -> Result<(), TestCaseError> {
        let mut left = acts;
        let mut may = || {
            let may = left > 0;
            left = left.saturating_sub(1);
            may
        };
        for id in &plan.start {
            if !may() {
                return Ok(());
            }
            let exists = self.world.members.iter().any(|member| member.id == *id);
            if !exists {
                self.next_uid += 1;
                let uid = self.next_uid.to_string();
                self.world.members.push(Member::new(*id, uid, pending()));
                *self.created.entry(*id).or_default() += 1;
            }
            self.check_one_attempt_lives()?;
        }
        for stop in &plan.stop {
            if !may() {
                return Ok(());
            }
            match stop.how {
                How::Clear | How::ByForce => self.world.members.retain(|member| member.uid != stop.uid),
                How::Gracefully => {
                    let since = at(self.seconds);
                    self.world
                        .members
                        .iter_mut()
                        .filter(|member| member.uid == stop.uid)
                        .for_each(|member| member.stopping_since = Some(since));
                }
            }
        }
        if let Some(ledger) = plan.ledger.clone().filter(|_| may()) {
            let before = &self.world.ledger;
            prop_assert!(ledger.attempt >= before.attempt, "the attempt fell");
            prop_assert!(ledger.failures >= before.failures && ledger.restarts >= before.restarts, "a count fell");
            prop_assert!(!before.phase.is_terminal(), "a finished job was written to");
            prop_assert!(ledger.gangs.len() <= self.world.job.gangs as usize);
            prop_assert!(ledger.attempts.len() <= crds::status::ATTEMPTS_KEPT);
            self.world.ledger = ledger;
        }
        Ok(())
    }

    fn check_one_attempt_lives(&self) -> Result<(), TestCaseError> {
        for gang in 0..self.world.job.gangs {
            let of_gang = |member: &&Member| self.world.job.gang_of(member.id.index) == gang && member.is_live();
            let attempts: BTreeSet<u32> = self.world.members.iter().filter(of_gang).map(|m| m.id.attempt).collect();
            prop_assert!(attempts.len() <= 1, "attempts {attempts:?} of gang {gang} live at once");
        }
        Ok(())
    }

    fn step(&mut self, acts: usize) -> Result<Plan, TestCaseError> {
        let plan = decide(&self.world, at(self.seconds));
        prop_assert_eq!(&plan, &decide(&self.world, at(self.seconds)), "the same world, the same plan");
        self.looks += 1;
        if self.looks.is_multiple_of(5) {
            self.check_restart(&plan)?;
        }
        let room = self.world.job.parallelism as usize;
        self.act(&plan, acts)?;
        self.check_one_attempt_lives()?;
        let live: BTreeSet<u32> =
            self.world.members.iter().filter(|m| m.is_live()).map(|m| self.world.job.gang_of(m.id.index)).collect();
        prop_assert!(live.len() <= room, "more gangs live than may: {live:?}");
        Ok(plan)
    }

    /// An operator that starts anew, with what the status holds, decides the same.
    fn check_restart(&self, plan: &Plan) -> Result<(), TestCaseError> {
        let restarted = World { ledger: through_status(&self.world), ..self.world.clone() };
        let again = decide(&restarted, at(self.seconds));
        prop_assert_eq!((&plan.start, &plan.stop, plan.wake), (&again.start, &again.stop, again.wake));
        let end = |world: &World, plan: &Plan| through_status(&world.clone().then(plan));
        prop_assert_eq!(
            end(&self.world, plan),
            end(&restarted, &again),
            "an operator that starts anew decides the same"
        );
        Ok(())
    }

    /// Nothing more happens but what was asked for: it comes to rest.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..20 {
            let plan = self.step(usize::MAX)?;
            let stopping: Vec<usize> = (0..self.world.members.len())
                .filter(|n| self.world.members[*n].is_live() && self.world.members[*n].stopping_since.is_some())
                .collect();
            let moved = !stopping.is_empty();
            for n in stopping {
                self.world.members[n].state = ended(143);
            }
            if plan.is_empty() && !moved {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("it does not come to rest"))
    }
}

fn history(world: World, happenings: &[Happening]) -> Result<Simulation, TestCaseError> {
    let mut simulation = Simulation { world, seconds: 0, created: BTreeMap::new(), next_uid: 0, looks: 0 };
    for happening in happenings {
        let acts = simulation.happens(happening).unwrap_or(usize::MAX);
        simulation.step(acts)?;
    }
    simulation.settle()?;
    Ok(simulation)
}

fn job() -> impl Strategy<Value = World> {
    let kinds = prop_oneof![
        (1_u32..4).prop_map(training),
        (1_u32..6, 1_u32..4).prop_map(|(shards, parallelism)| scoring(shards, parallelism.min(shards))),
    ];
    (kinds, any::<bool>(), 0_u32..4).prop_map(|(world, elsewhere, backoff_limit)| {
        world.wishing(|job| (job.elsewhere, job.backoff_limit) = (elsewhere, backoff_limit))
    })
}

/// Histories of each property, unless PROPTEST_CASES says how many.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(1_000, |_| ProptestConfig::default().cases)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_in_every_history(world in job(), happenings in prop::collection::vec(happening(), 0..60)) {
        let simulation = history(world, &happenings)?;
        let ledger = &simulation.world.ledger;
        let limit = simulation.world.job.backoff_limit;
        let allowed = (limit + 1) * simulation.world.job.gangs;
        prop_assert!(ledger.failures <= allowed, "{} failures, {allowed} allowed", ledger.failures);
        if ledger.phase == Phase::Succeeded {
            prop_assert_eq!(ledger.done.len() as u32, simulation.world.job.gangs);
        }
    }

    #[test]
    fn a_job_whose_members_all_complete_succeeds_whatever_came_before(
        world in job(),
        happenings in prop::collection::vec(happening(), 0..30),
    ) {
        let mut simulation = history(world, &happenings)?;
        simulation.world.job.suspend = false;
        for _ in 0..60 {
            simulation.seconds += 400;
            let seconds = simulation.seconds;
            for member in simulation.world.members.iter_mut().filter(|member| member.is_live()) {
                member.state = MemberState::Ended(End::from_exit(0, None, at(seconds)));
            }
            simulation.step(usize::MAX)?;
        }
        let phase = simulation.world.ledger.phase;
        prop_assert!(phase.is_terminal(), "{phase:?}: {:?}", simulation.world);
    }
}
