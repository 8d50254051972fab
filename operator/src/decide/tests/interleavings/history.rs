//! What happens in a history, and the operator that looks in between: it decides on what it believes, and acts write by write.

use super::super::builders::*;
use super::super::histories::through_status;
use super::Lived;
use super::dice::Dice;
use super::server::{Broken, Server, is_older, promise};
use crate::decide::{Plan, decide};
use crate::observe::{End, Member, MemberId, MemberState, Obstacle, Phase, Stage, World};

/// Looks after which nothing more is to be done once nothing more happens.
const LOOKS_TO_REST: u32 = 40;
/// Exit codes of pods: those that end the whole job are rare, so that histories go on.
const CODES: [i32; 16] = [0, 0, 0, 0, 69, 137, 137, 137, 143, 143, 160, 160, 161, 161, 162, 162];
const NODES: [&str; 3] = ["a", "b", "c"];

/// A job's history, and the operator in it: `world` is what the operator believes.
pub(super) struct History {
    pub(super) dice: Dice,
    pub(super) lived: Lived,
    server: Server,
    world: World,
    seconds: i64,
    /// Whether the last status write was not answered: the status has to be read before the next look.
    is_unsure: bool,
    /// Whether the spec was changed during a look, which the operator does not know of.
    is_changed: bool,
}

impl History {
    pub(super) fn new(mut dice: Dice) -> History {
        let world = match dice.below(3) {
            0 => training(1),
            1 => training(1 + dice.below(3) as u32),
            _ => scoring(1 + dice.below(4) as u32, 1 + dice.below(3) as u32),
        };
        let world = world.wishing(|job| {
            job.backoff_limit = dice.below(20) as u32;
            job.grace_seconds = dice.one_in(3).then_some(30);
            job.stall_deadline_seconds = dice.one_in(3).then_some(600);
        });
        let (lived, server) = (Lived::default(), Server::default());
        History { dice, lived, server, world, seconds: 0, is_unsure: false, is_changed: false }
    }

    /// The operator looks, or something happens that is none of its doing.
    pub(super) fn step(&mut self) -> Result<(), Broken> {
        // Of a job that has come to its end there is little to see.
        if self.server.status.phase.is_terminal() && self.dice.one_in(8) {
            self.make_again();
        }
        if self.dice.one_in(2) { self.look() } else { self.happen() }
    }

    fn happen(&mut self) -> Result<(), Broken> {
        match self.dice.below(44) {
            0..10 => self.hear(),
            10..20 => self.change_pod(),
            20..23 => self.finish_stopping(),
            23..26 => self.seconds += self.dice.below(30) as i64,
            26 => self.seconds += self.dice.below(4000) as i64,
            27 => self.seconds = (self.seconds - self.dice.below(100) as i64).max(0),
            28..31 => {
                let step = self.dice.below(100) as u64;
                self.world.progress = Some(progress(self.world.ledger.attempt, step));
                let gang = self.dice.below(self.world.job.gangs as usize) as u32;
                self.world = self.world.clone().hears(gang, step);
            }
            31 => self.world.job.suspend = self.dice.one_in(2),
            32 => self.world.job.backoff_limit = self.dice.below(20) as u32,
            33 => self.world.job.parallelism = 1 + self.dice.below(3) as u32,
            34 => {
                let deadline = self.dice.one_in(6).then(|| 3000 + self.dice.below(9000) as u64);
                self.world.job.active_deadline_seconds = deadline;
            }
            35 => self.change_place(),
            36 => self.world.job.elsewhere = !self.dice.one_in(4),
            37 => drop(self.server.foreign.pop_first()),
            38 if self.dice.one_in(4) => self.make_again(),
            39 if self.dice.one_in(2) => self.start_anew(),
            40..42 => self.change_spec(),
            _ => {}
        }
        Ok(())
    }

    /// The spec is changed, as it may be before the job has started.
    fn change_spec(&mut self) {
        if self.server.status.attempt > 0 || self.server.status.phase.is_terminal() {
            return;
        }
        let job = &mut self.world.job;
        job.spec += 1;
        match job.kind.as_str() {
            "TrainingJob" => job.gang_size = 1 + self.dice.below(3) as u32,
            _ => job.gangs = 1 + self.dice.below(4) as u32,
        }
    }

    /// The watch tells something: the next of one pod, the same again, or what came after it.
    fn hear(&mut self) {
        let untold: Vec<MemberId> = self.server.untold.keys().copied().collect();
        let Some(id) = self.dice.pick(&untold) else { return };
        let Some(queue) = self.server.untold.get_mut(&id) else { return };
        if queue.len() > 1 && self.dice.one_in(4) {
            queue.pop_front();
        }
        let told = if self.dice.one_in(8) { queue.front().cloned() } else { queue.pop_front() };
        if queue.is_empty() {
            self.server.untold.remove(&id);
        }
        if let Some(told) = told {
            self.learn(id, told);
        }
    }

    fn learn(&mut self, id: MemberId, told: Option<Member>) {
        self.world.members.retain(|member| member.id != id);
        self.world.members.extend(told);
    }

    fn pick_pod(&mut self, wanted: impl Fn(&Member) -> bool) -> Option<MemberId> {
        let ids: Vec<MemberId> = self.server.pods.values().filter(|pod| wanted(pod)).map(|pod| pod.id).collect();
        self.dice.pick(&ids)
    }

    fn change_pod(&mut self) {
        let Some(id) = self.pick_pod(|_| true) else { return };
        let state = self.server.pods[&id].state.clone();
        let end = |code| End::from_exit(code, None, at(self.seconds));
        match (self.dice.below(12), &state) {
            (0..6, MemberState::Pending) => self.server.turn(id, MemberState::Running),
            (0..4, MemberState::Running) => {
                let code = if self.dice.one_in(40) { 65 } else { CODES[self.dice.below(CODES.len())] };
                self.server.turn(id, MemberState::Ended(end(code)));
            }
            (6, MemberState::Pending) => {
                let code = if self.dice.one_in(20) { 64 } else { 162 };
                self.server.turn(id, MemberState::Stuck(end(code)));
            }
            (7, MemberState::Pending | MemberState::Running) => {
                let state = if self.dice.one_in(2) { MemberState::Unreachable } else { MemberState::Gone };
                self.server.turn(id, state);
            }
            // Its node is back, and it lives or not.
            (8, MemberState::Unreachable | MemberState::Gone) => self.server.turn(id, MemberState::Running),
            (9, MemberState::Unreachable | MemberState::Gone) => self.server.turn(id, MemberState::Ended(end(137))),
            (11, MemberState::Unreachable) => self.server.turn(id, MemberState::Gone),
            (10, _) => self.server.lose(id),
            _ => {}
        }
    }

    fn finish_stopping(&mut self) {
        let stopping = self.pick_pod(|pod| {
            pod.stopping_since.is_some() && !matches!(pod.state, MemberState::Unreachable | MemberState::Gone)
        });
        if let Some(id) = stopping {
            self.server.finish_stopping(id, self.seconds);
        }
    }

    fn change_place(&mut self) {
        let fails_by = self.dice.one_in(20).then_some(crds::contract::Cause::GpuUnsupported);
        let obstacle = Obstacle { reason: "NoFittingNode".into(), message: "none".into(), fails_by };
        self.world.place = match self.dice.below(4) {
            0 => None,
            1 => Some(Err(obstacle)),
            _ => Some(Ok(Default::default())),
        };
    }

    fn make_again(&mut self) {
        self.server.make_again();
        self.world.ledger = Default::default();
        self.world.members.clear();
        self.world.progress = None;
        self.world.heard.clear();
        self.is_unsure = false;
    }

    /// The operator dies, and another one starts with the status and a list that may be old.
    fn start_anew(&mut self) {
        self.is_unsure = true;
        self.world.progress = None;
        self.world.heard.clear();
        self.world.since = at(self.seconds);
        if self.dice.one_in(2) {
            self.world.members = self.server.pods.values().cloned().collect();
            self.server.untold.clear();
        }
    }

    /// What is decided on the world as it is believed to be, held to what is promised of any plan.
    fn decide(&mut self) -> Result<Plan, Broken> {
        let (world, job) = (&self.world, &self.world.job);
        let plan = decide(world, at(self.seconds));
        self.lived.decisions += 1;
        self.lived.open += u64::from(!world.ledger.phase.is_terminal());
        let decided = plan.ledger.as_ref().unwrap_or(&world.ledger);
        for id in &plan.start {
            let older = |pod: &&Member| is_older(pod, *id, job);
            let gang = job.gang_of(id.index);
            promise!(!world.members.iter().filter(older).any(Member::is_live), "it starts beside an older attempt");
            promise!(!job.suspend, "it starts {id:?} of a suspended job");
            promise!(matches!(world.place, Some(Ok(_))) || plan.asks_place, "it starts {id:?} nowhere");
            promise!(
                decided.gangs.get(&gang).is_some_and(|gang| gang.attempt == id.attempt),
                "{id:?} is of no attempt"
            );
        }
        let begun = |gang: &u32| {
            world.ledger.gangs.get(gang).map(|gang| gang.attempt) != decided.gangs.get(gang).map(|gang| gang.attempt)
        };
        let busy = decided.gangs.values().filter(|gang| !matches!(gang.stage, Stage::Waiting { .. })).count();
        let begins = plan.start.iter().map(|id| job.gang_of(id.index)).any(|gang| begun(&gang));
        promise!(!begins || busy <= job.parallelism as usize, "{busy} gangs at a time, {} may be", job.parallelism);
        for stop in &plan.stop {
            let newest = decided.gangs.get(&job.gang_of(stop.id.index)).map_or(u32::MAX, |gang| gang.attempt);
            promise!(stop.id.attempt <= newest, "an older view stops a member of a newer attempt");
        }
        let failed_more = decided.failures > world.ledger.failures;
        let over = decided.failures > job.backoff_limit && failed_more && !decided.phase.is_terminal();
        promise!(!over || job.gangs > 1, "{} failures, {} may be", decided.failures, job.backoff_limit);
        Ok(plan)
    }

    /// A look as the operator takes it, on the spec that it was told of before.
    fn look(&mut self) -> Result<(), Broken> {
        let looked = self.look_once();
        if std::mem::take(&mut self.is_changed) {
            self.change_spec();
        }
        looked
    }

    /// Decides, then acts, with other things happening between any two acts.
    fn look_once(&mut self) -> Result<(), Broken> {
        if self.is_unsure {
            self.world.ledger = self.server.status.clone();
            if self.dice.one_in(16) {
                self.world.ledger = through_status(&self.world);
            }
            self.is_unsure = false;
        }
        let mut plan = self.decide()?;
        if plan.asks_place {
            self.world.place = Some(Ok(Default::default()));
            plan = self.decide()?;
        }
        // Before a next attempt starts, the pods of the older ones are listed by the API server itself.
        if plan.start.iter().any(|id| id.attempt > 1 && self.server.overlaps(*id, &self.world.job)) {
            return Ok(());
        }
        for id in &plan.start {
            if !self.goes_through() || !self.create(*id)? {
                return Ok(());
            }
        }
        let mut stopped = Vec::new();
        for stop in &plan.stop {
            if !self.goes_through() {
                self.server.forget(stopped);
                return Ok(());
            }
            self.server.stop(stop.id, &stop.uid, stop.how, self.seconds);
            stopped.push(stop.id);
        }
        let Some(ledger) = plan.ledger else { return Ok(()) };
        if !self.goes_through() {
            self.server.forget(stopped);
            return Ok(());
        }
        // A status is written over the version that was seen, and that had another spec.
        if self.is_changed {
            self.is_unsure = true;
            return Ok(());
        }
        self.server.write(&ledger)?;
        // The answer to the write may be lost.
        if self.dice.one_in(30) {
            self.is_unsure = true;
        } else {
            self.world.ledger = ledger;
        }
        Ok(())
    }

    /// Whether the next act is carried out: something else may happen first, the operator may die, the write may fail.
    fn goes_through(&mut self) -> bool {
        if self.dice.one_in(6) {
            match self.dice.below(4) {
                0 => self.change_pod(),
                1 => self.finish_stopping(),
                2 => self.is_changed = self.server.status.attempt == 0,
                _ => drop(self.server.foreign.pop_first()),
            }
        }
        if self.dice.one_in(60) {
            self.start_anew();
            return false;
        }
        !self.dice.one_in(30)
    }

    fn create(&mut self, id: MemberId) -> Result<bool, Broken> {
        let node = NODES[self.dice.below(NODES.len())];
        let is_there = self.server.create(id, node, &self.world.job)?;
        // One that is there for another spec is learned of too.
        if let Some(there) = self.server.pods.get(&id).cloned() {
            self.learn(id, Some(there));
        }
        Ok(is_there)
    }

    /// Nothing more happens but what was asked for: the job comes to rest, and stays there, as it should be.
    pub(super) fn come_to_rest(&mut self, suspend: bool) -> Result<(), Broken> {
        self.world.job.suspend = suspend;
        self.world.place = Some(Ok(Default::default()));
        self.server.foreign.clear();
        let mut quiet = 0;
        for _ in 0..LOOKS_TO_REST {
            for id in self.server.pods.keys().copied().collect::<Vec<_>>() {
                let pod = &self.server.pods[&id];
                if pod.stopping_since.is_some() {
                    self.server.finish_stopping(id, self.seconds);
                } else if pod.state == MemberState::Pending {
                    self.server.turn(id, MemberState::Running);
                }
            }
            self.server.untold.clear();
            self.world.members = self.server.pods.values().cloned().collect();
            self.world.ledger = self.server.status.clone();
            self.seconds += 400;
            let plan = self.decide()?;
            let is_at_rest = plan.start.is_empty() && plan.stop.is_empty() && plan.ledger.is_none();
            quiet = if is_at_rest { quiet + 1 } else { 0 };
            for id in &plan.start {
                self.create(*id)?;
            }
            plan.stop.iter().for_each(|stop| self.server.stop(stop.id, &stop.uid, stop.how, self.seconds));
            if let Some(ledger) = &plan.ledger {
                self.server.write(ledger)?;
            }
        }
        promise!(quiet > 3, "it does not come to rest: {:?}", self.world.ledger);
        self.is_as_it_should_be(suspend)
    }

    fn is_as_it_should_be(&self, suspend: bool) -> Result<(), Broken> {
        let (job, status) = (&self.world.job, &self.server.status);
        let live: Vec<&Member> = self.server.pods.values().filter(|pod| pod.is_live()).collect();
        if status.phase.is_terminal() || suspend {
            promise!(live.is_empty(), "{:?}, and {} pods live", status.phase, live.len());
            promise!(status.phase.is_terminal() || status.phase == Phase::Suspended, "{:?} is at rest", status.phase);
            let all_done = status.done.len() == job.gangs as usize;
            promise!(
                (status.phase == Phase::Succeeded) == all_done,
                "{:?} with {} gangs done",
                status.phase,
                status.done.len()
            );
            return Ok(());
        }
        let left = job.gangs as usize - status.done.len();
        let running = left.min(job.parallelism as usize) * job.gang_size as usize;
        // A member that has completed waits for its leader. More gangs may run than parallelism says, where it was lowered
        // meanwhile: that stops none.
        let completed = |pod: &&Member| pod.end().is_some_and(|end| end.cause == crds::contract::Cause::Completed);
        let of_now = |pod: &&Member| {
            status.gangs.get(&job.gang_of(pod.id.index)).map(|gang| gang.attempt) == Some(pod.id.attempt)
        };
        let waiting = self.server.pods.values().filter(completed).filter(of_now).count();
        let there = live.len() + waiting;
        promise!(there >= running, "{there} pods are there at rest, {running} should");
        promise!(there.is_multiple_of(job.gang_size as usize), "a gang is not whole: {there} pods are there");
        for pod in live {
            let gang = status.gangs.get(&job.gang_of(pod.id.index));
            let is_current = gang.is_some_and(|gang| gang.attempt == pod.id.attempt && gang.stage == Stage::Running);
            promise!(is_current, "{:?} lives, and is not of {gang:?}", pod.id);
        }
        Ok(())
    }
}
