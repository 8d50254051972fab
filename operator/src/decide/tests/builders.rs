//! Worlds in a few words: `training(2).open(1).member(0, running()).member(1, ended(161))`.

use std::collections::BTreeMap;

use crds::contract::{JobResult, Progress, TerminationMessage};
use crds::status::Placement;
use jiff::{SignedDuration, Timestamp};

use crate::decide::{How, Plan, decide};
use crate::observe::{Backoff, End, Gang, Job, Ledger, Mark, Member, MemberId, MemberState, Phase, Stage, World};

/// Where the clock stands in a test unless it was moved.
pub(super) fn noon() -> Timestamp {
    "2026-07-01T12:00:00Z".parse().expect("a time")
}

/// A clock so many seconds after noon.
pub(super) fn at(seconds: i64) -> Timestamp {
    noon() + SignedDuration::from_secs(seconds)
}

/// A TrainingJob of that many nodes.
pub(crate) fn training(nodes: u32) -> World {
    world("TrainingJob", 1, nodes, 1)
}

/// A ScoringJob of that many shards, so many at a time.
pub(super) fn scoring(shards: u32, parallelism: u32) -> World {
    world("ScoringJob", shards, 1, parallelism)
}

fn world(kind: &str, gangs: u32, gang_size: u32, parallelism: u32) -> World {
    World {
        job: Job {
            kind: kind.to_owned(),
            namespace: "n".to_owned(),
            name: "a".to_owned(),
            uid: "u".to_owned(),
            created: None,
            generation: 1,
            spec: 1,
            gangs,
            gang_size,
            parallelism,
            is_auto: false,
            output: "pvc://models/a".to_owned(),
            suspend: false,
            elsewhere: true,
            backoff_limit: 3,
            exit_codes: None,
            active_deadline_seconds: None,
            stall_deadline_seconds: None,
            backoff: Backoff { first_seconds: 10, most_seconds: 300 },
            grace_seconds: None,
        },
        ledger: Ledger::default(),
        members: Vec::new(),
        progress: None,
        heard: BTreeMap::new(),
        since: noon(),
        warnings: String::new(),
        model: None,
        place: Some(Ok(Placement::default())),
        gate: None,
        connected: None,
    }
}

impl World {
    /// The ledger remembers that the only gang runs this attempt since noon.
    pub(super) fn running_attempt(self, attempt: u32) -> World {
        self.gang(0, attempt, Stage::Running)
    }

    /// The ledger remembers a gang at this stage since noon.
    pub(super) fn gang(mut self, gang: u32, attempt: u32, stage: Stage) -> World {
        let before = self.ledger.gangs.get(&gang);
        let record = before.map_or_else(|| Gang::new(attempt, noon()), |before| before.again(attempt, noon()));
        self.ledger.gangs.insert(gang, Gang { stage, ..record });
        self.ledger.attempt = self.ledger.attempt.max(attempt);
        self.ledger.phase = Phase::Running;
        self.ledger.start_time = Some(noon());
        self.ledger.active_since = Some(noon());
        self.ledger.observed_generation = 1;
        self
    }

    /// There is a member of the attempt that the ledger remembers last.
    pub(super) fn member(self, index: u32, state: MemberState) -> World {
        let attempt = self.ledger.attempt.max(1);
        self.member_of(attempt, index, state)
    }

    /// There is a member of this attempt.
    pub(super) fn member_of(mut self, attempt: u32, index: u32, state: MemberState) -> World {
        let id = MemberId { attempt, index };
        let uid = format!("uid-{attempt}-{index}");
        self.members.push(Member::new(id, uid, state));
        self
    }

    /// Rank 0 of each gang says that it is at this step of 100.
    pub(super) fn at_step(mut self, step: u64) -> World {
        self.progress = Some(progress(self.ledger.attempt, step));
        for gang in self.ledger.gangs.keys().copied().collect::<Vec<_>>() {
            self = self.hears(gang, step);
        }
        self
    }

    /// Rank 0 of this gang says that it is at this step.
    pub(super) fn hears(mut self, gang: u32, step: u64) -> World {
        let attempt = self.ledger.gangs.get(&gang).map_or(0, |gang| gang.attempt);
        self.heard.insert(gang, Mark::of(&progress(attempt, step)));
        self
    }

    /// Changes what the job wishes.
    pub(super) fn wishing(mut self, change: impl FnOnce(&mut Job)) -> World {
        change(&mut self.job);
        self
    }

    /// Changes what the ledger remembers.
    pub(super) fn remembering(mut self, change: impl FnOnce(&mut Ledger)) -> World {
        change(&mut self.ledger);
        self
    }

    /// The same world after the plan was written down, its members untouched.
    pub(super) fn then(mut self, plan: &Plan) -> World {
        if let Some(ledger) = &plan.ledger {
            self.ledger = ledger.clone();
        }
        self
    }

    /// The world once the decision to stop something is written down, which comes first; and what is decided on it.
    pub(super) fn decided_twice(&self, seconds: i64) -> (World, Plan) {
        let plan = self.decided(seconds);
        assert_eq!(plan.stop.iter().find(|stop| stop.how != How::Clear), None, "why is not written down yet");
        assert_eq!(plan.wake, Some(at(seconds)), "it goes on at once");
        let world = self.clone().then(&plan);
        let then = world.decided(seconds);
        (world, then)
    }

    /// What is decided so many seconds after noon.
    pub(super) fn decided(&self, seconds: i64) -> Plan {
        decide(self, at(seconds))
    }
}

pub(super) fn progress(attempt: u32, step: u64) -> Progress {
    Progress { attempt, step, total_steps: 100, ..Progress::default() }
}

pub(super) fn pending() -> MemberState {
    MemberState::Pending
}

pub(super) fn running() -> MemberState {
    MemberState::Running
}

/// The stage of a gang whose next attempt starts so many seconds after noon.
pub(super) fn waiting(seconds: i64) -> Stage {
    Stage::Waiting { not_before: at(seconds) }
}

/// Ended at noon with this exit code and no message.
pub(super) fn ended(code: i32) -> MemberState {
    MemberState::Ended(End::from_exit(code, None, noon()))
}

/// Ended at noon with code 0 and this result.
pub(super) fn completed(rows: u64, metric: f64) -> MemberState {
    let result = JobResult {
        uri: "file:///out".to_owned(),
        metric_name: Some("accuracy".to_owned()),
        metric: Some(metric),
        threshold: None,
        rows_in: Some(rows),
        rows_out: Some(rows),
        rows_failed: Some(0),
        digest: None,
        note: None,
    };
    let said = TerminationMessage {
        contract_version: 1,
        cause: crds::contract::Cause::Completed,
        rank: None,
        node: None,
        step: None,
        message: String::new(),
        hint: String::new(),
        result: Some(result),
    };
    MemberState::Ended(End::from_exit(0, Some(said), noon()))
}

/// The members that a plan starts, as `attempt/index`.
pub(super) fn starts(plan: &Plan) -> Vec<String> {
    plan.start.iter().map(|id| format!("{}/{}", id.attempt, id.index)).collect()
}

/// The members that a plan stops, as `attempt/index how`.
pub(super) fn stops(plan: &Plan) -> Vec<String> {
    let how = |how| match how {
        How::Clear => "clear",
        How::Gracefully => "gracefully",
        How::ByForce => "by force",
    };
    plan.stop.iter().map(|stop| format!("{}/{} {}", stop.id.attempt, stop.id.index, how(stop.how))).collect()
}

/// Phase, attempt, restarts and failures that a plan writes down; those of the world if it writes nothing.
pub(super) fn stands(world: &World, plan: &Plan) -> (Phase, u32, u32, u32) {
    let ledger = plan.ledger.as_ref().unwrap_or(&world.ledger);
    (ledger.phase, ledger.attempt, ledger.restarts, ledger.failures)
}
