//! A million decisions in random histories. The API server's watch lags behind, tells twice or leaves out what was overtaken;
//! writes fail, or take effect without an answer; the operator dies between any two of them and starts anew from an old list;
//! pods end, vanish and are cut off between two acts of one plan; the clock jumps; the job is changed, suspended, and deleted
//! and made again under its name. Each history follows from its seed: `TRAINYARD_SEED` plays one again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::builders::*;
use super::histories::through_status;
use crate::decide::{How, Stop, decide};
use crate::observe::{End, Ledger, Member, MemberId, MemberState, Obstacle, World};

/// Decisions of the whole test.
const DECISIONS: u64 = 1_000_000;
/// Steps of a history.
const STEPS: u32 = 150;
/// Looks after which nothing more is to be done once nothing more happens.
const LOOKS_TO_REST: u32 = 40;

/// Random numbers by SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    fn pick<T>(&mut self, from: impl ExactSizeIterator<Item = T>) -> Option<T> {
        let count = from.len();
        let mut from = from;
        if count == 0 { None } else { from.nth(self.below(count)) }
    }
}

/// The API server: pods by name, the status, and what its watch has yet to tell of each pod.
#[derive(Default)]
struct Server {
    pods: BTreeMap<MemberId, Member>,
    /// Names that pods of an earlier job of this name still have.
    foreign: BTreeSet<MemberId>,
    untold: BTreeMap<MemberId, VecDeque<Option<Member>>>,
    status: Ledger,
    uids: u32,
}

impl Server {
    fn changed(&mut self, id: MemberId) {
        let now = self.pods.get(&id).cloned();
        self.untold.entry(id).or_default().push_back(now);
    }
}

/// A job's history, and the operator in it: `world` is what the operator believes.
struct History {
    dice: Dice,
    server: Server,
    world: World,
    seconds: i64,
    /// Whether the last status write was not answered: the status has to be read before the next look.
    is_unsure: bool,
    created: BTreeMap<MemberId, u32>,
    /// How often each was taken away without the ledger knowing: by somebody else, or by us before the ledger was written.
    taken_away: BTreeMap<MemberId, u32>,
    decisions: u64,
}

impl History {
    fn new(seed: u64) -> History {
        let mut dice = Dice(seed);
        let world = match dice.below(3) {
            0 => training(1),
            1 => training(1 + dice.below(3) as u32),
            _ => scoring(1 + dice.below(4) as u32, 1 + dice.below(3) as u32),
        };
        let (server, seconds) = (Server::default(), 0);
        let (created, taken_away) = (BTreeMap::new(), BTreeMap::new());
        History { dice, server, world, seconds, is_unsure: false, created, taken_away, decisions: 0 }
    }

    /// Something happens that is none of the operator's doing.
    fn happen(&mut self) {
        match self.dice.below(40) {
            0..10 => self.hear(),
            10..20 => self.change_pod(),
            20..23 => self.finish_stopping(),
            23..26 => self.seconds += self.dice.below(30) as i64,
            26 => self.seconds += self.dice.below(4000) as i64,
            27 => self.seconds = (self.seconds - self.dice.below(100) as i64).max(0),
            28 | 29 => {
                let step = self.dice.below(100) as u64;
                self.world.progress = Some(progress(self.world.ledger.attempt, step));
            }
            30 => self.world.job.suspend = self.dice.one_in(2),
            31 => self.world.job.backoff_limit = self.dice.below(5) as u32,
            32 => self.world.job.parallelism = 1 + self.dice.below(3) as u32,
            33 => {
                let deadline = self.dice.one_in(4).then(|| 1000 + self.dice.below(5000) as u64);
                self.world.job.active_deadline_seconds = deadline;
            }
            34 => {
                let obstacle = Obstacle { reason: "NoFittingNode".into(), message: "none".into(), fails_by: None };
                let is_found = self.dice.one_in(2);
                self.world.place = Some(if is_found { Ok(Default::default()) } else { Err(obstacle) });
            }
            35 => self.world.job.elsewhere = self.dice.one_in(2),
            36 => drop(self.server.foreign.pop_first()),
            37 if self.dice.one_in(4) => self.make_again(),
            38 if self.dice.one_in(2) => self.start_anew(),
            _ => {}
        }
    }

    /// The watch tells something: the next of one pod, the same again, or what came after it.
    fn hear(&mut self) {
        let Some(id) = self.dice.pick(self.server.untold.keys().copied().collect::<Vec<_>>().into_iter()) else {
            return;
        };
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

    fn change_pod(&mut self) {
        let Some(id) = self.dice.pick(self.server.pods.keys().copied().collect::<Vec<_>>().into_iter()) else { return };
        let Some(pod) = self.server.pods.get_mut(&id) else { return };
        let is_live = pod.is_live();
        let codes = [0, 0, 0, 65, 69, 137, 143, 160, 161, 162, 162];
        match self.dice.below(10) {
            0..4 if is_live => pod.state = MemberState::Running,
            4..8 if is_live => {
                let code = codes[self.dice.below(codes.len())];
                pod.state = MemberState::Ended(End::from_exit(code, None, at(self.seconds)));
            }
            8 if is_live => pod.state = MemberState::Unreachable,
            9 => {
                self.server.pods.remove(&id);
                *self.taken_away.entry(id).or_default() += 1;
            }
            _ => return,
        }
        self.server.changed(id);
    }

    /// A pod that is being stopped ends, and goes.
    fn finish_stopping(&mut self) {
        let stopping = |pod: &&Member| pod.stopping_since.is_some();
        let stopping: Vec<MemberId> = self.server.pods.values().filter(stopping).map(|pod| pod.id).collect();
        let Some(id) = self.dice.pick(stopping.into_iter()) else { return };
        if let Some(pod) = self.server.pods.get_mut(&id).filter(|pod| pod.is_live()) {
            pod.state = MemberState::Ended(End::from_exit(143, None, at(self.seconds)));
            self.server.changed(id);
        }
        self.server.pods.remove(&id);
        self.server.changed(id);
    }

    /// The job is deleted, and one of its name is made while pods of the old one still have their names.
    fn make_again(&mut self) {
        self.server.foreign.extend(self.server.pods.keys().copied());
        self.server.pods.clear();
        self.server.untold.clear();
        self.server.status = Ledger::default();
        self.world.ledger = Ledger::default();
        self.world.members.clear();
        self.world.progress = None;
        self.is_unsure = false;
        self.created.clear();
        self.taken_away.clear();
    }

    /// The operator dies, and another one starts with the status and a list that may be old.
    fn start_anew(&mut self) {
        self.is_unsure = true;
        self.world.progress = None;
        if self.dice.one_in(2) {
            self.world.members = self.server.pods.values().cloned().collect();
            self.server.untold.clear();
        }
    }

    /// A look as the operator takes it: decide, then act, with other things happening between any two acts.
    fn look(&mut self) {
        if self.is_unsure {
            self.world.ledger = self.server.status.clone();
            if self.dice.one_in(16) {
                self.world.ledger = through_status(&self.world);
            }
            self.is_unsure = false;
        }
        let plan = decide(&self.world, at(self.seconds));
        self.decisions += 1;
        for id in &plan.start {
            let gang = self.world.job.gang_of(id.index);
            let older = |pod: &&Member| self.world.job.gang_of(pod.id.index) == gang && pod.id.attempt < id.attempt;
            assert!(!self.world.members.iter().filter(older).any(Member::is_live), "it starts beside an older attempt");
        }
        // Before a next attempt starts, the pods of the older ones are listed by the API server itself.
        let job = &self.world.job;
        let overlaps = |id: &MemberId| {
            let gang = job.gang_of(id.index);
            let older = |pod: &&Member| job.gang_of(pod.id.index) == gang && pod.id.attempt < id.attempt;
            self.server.pods.values().filter(older).any(Member::is_live)
        };
        if plan.start.iter().any(|id| id.attempt > 1 && overlaps(id)) {
            return;
        }
        for id in &plan.start {
            if !self.goes_through() || !self.create(*id) {
                return;
            }
        }
        let decided = plan.ledger.as_ref().unwrap_or(&self.world.ledger).clone();
        for stop in &plan.stop {
            let gang = self.world.job.gang_of(stop.id.index);
            let newest = decided.gangs.get(&gang).map_or(u32::MAX, |gang| gang.attempt);
            assert!(stop.id.attempt <= newest, "an older view stops a member of a newer attempt");
            if !self.goes_through() {
                return self.forget(&plan.stop);
            }
            self.stop(stop.id, &stop.uid, stop.how);
        }
        let Some(ledger) = plan.ledger else { return };
        if !self.goes_through() {
            return self.forget(&plan.stop);
        }
        self.write(&ledger);
        // The answer to the write may be lost.
        if self.dice.one_in(30) {
            self.is_unsure = true;
        } else {
            self.world.ledger = ledger;
        }
    }

    /// What was stopped is not written down.
    fn forget(&mut self, stops: &[Stop]) {
        for stop in stops {
            *self.taken_away.entry(stop.id).or_default() += 1;
        }
    }

    /// Whether the next act is carried out: something else may happen first, the operator may die, the write may fail.
    fn goes_through(&mut self) -> bool {
        if self.dice.one_in(6) {
            match self.dice.below(3) {
                0 => self.change_pod(),
                1 => self.finish_stopping(),
                _ => drop(self.server.foreign.pop_first()),
            }
        }
        if self.dice.one_in(60) {
            self.start_anew();
            return false;
        }
        !self.dice.one_in(30)
    }

    /// Creates a pod, unless its name is taken by one of an earlier job.
    fn create(&mut self, id: MemberId) -> bool {
        if self.server.foreign.contains(&id) {
            return false;
        }
        if !self.server.pods.contains_key(&id) {
            self.server.uids += 1;
            let uid = self.server.uids.to_string();
            let pod = Member { id, uid, state: pending(), stopping_since: None, node: None, waiting: String::new() };
            self.server.pods.insert(id, pod);
            self.server.changed(id);
            let made = self.created.entry(id).or_default();
            *made += 1;
            let gone = self.taken_away.get(&id).copied().unwrap_or_default();
            assert!(*made <= 1 + gone, "{id:?} was made {made} times, and taken away {gone} times");
        }
        let there = self.server.pods.get(&id).cloned();
        self.learn(id, there);
        self.check_one_attempt_lives();
        true
    }

    fn stop(&mut self, id: MemberId, uid: &str, how: How) {
        let Some(pod) = self.server.pods.get_mut(&id).filter(|pod| pod.uid == uid) else { return };
        match how {
            How::Gracefully => drop(pod.stopping_since.get_or_insert(at(self.seconds))),
            How::Clear | How::ByForce => drop(self.server.pods.remove(&id)),
        }
        self.server.changed(id);
    }

    fn write(&mut self, ledger: &Ledger) {
        let before = &self.server.status;
        assert!(!before.phase.is_terminal(), "a finished job was written to");
        assert!(ledger.attempt >= before.attempt, "the attempt fell");
        assert!(ledger.failures >= before.failures && ledger.restarts >= before.restarts, "a count fell");
        assert!(ledger.done.is_superset(&before.done), "a gang that was done is not any more");
        self.server.status = ledger.clone();
    }

    fn check_one_attempt_lives(&self) {
        let mut lives = BTreeMap::new();
        for pod in self.server.pods.values().filter(|pod| pod.is_live()) {
            let gang = self.world.job.gang_of(pod.id.index);
            let attempt = *lives.entry(gang).or_insert(pod.id.attempt);
            assert_eq!(attempt, pod.id.attempt, "two attempts of gang {gang} live at once");
        }
    }

    /// Nothing more happens but what was asked for: the job comes to rest, and stays there.
    fn settle(&mut self) {
        self.world.job.suspend = false;
        self.world.place = Some(Ok(Default::default()));
        self.server.foreign.clear();
        let mut quiet = 0;
        for _ in 0..LOOKS_TO_REST {
            for id in self.server.pods.keys().copied().collect::<Vec<_>>() {
                let Some(pod) = self.server.pods.get_mut(&id) else { continue };
                if pod.stopping_since.is_some() {
                    self.server.pods.remove(&id);
                } else if pod.state == MemberState::Pending {
                    pod.state = MemberState::Running;
                }
            }
            self.server.untold.clear();
            self.world.members = self.server.pods.values().cloned().collect();
            self.world.ledger = self.server.status.clone();
            self.seconds += 400;
            let plan = decide(&self.world, at(self.seconds));
            let is_at_rest = plan.start.is_empty() && plan.stop.is_empty() && plan.ledger.is_none();
            quiet = if is_at_rest { quiet + 1 } else { 0 };
            plan.start.iter().for_each(|id| assert!(self.create(*id)));
            plan.stop.iter().for_each(|stop| self.stop(stop.id, &stop.uid, stop.how));
            if let Some(ledger) = &plan.ledger {
                self.write(ledger);
            }
        }
        assert!(quiet > 3, "it does not come to rest: {:?}", self.world.ledger);
    }
}

/// Lives one history; tells how many decisions it took.
fn live(seed: u64) -> u64 {
    let mut history = History::new(seed);
    for _ in 0..STEPS {
        if history.dice.one_in(2) {
            history.look();
        } else {
            history.happen();
        }
    }
    history.settle();
    history.decisions
}

#[test]
fn a_million_decisions_keep_what_was_promised() {
    let seed = std::env::var("TRAINYARD_SEED").ok().and_then(|seed| seed.parse().ok());
    if let Some(seed) = seed {
        live(seed);
        return;
    }
    let (mut decisions, mut histories) = (0, 0);
    while decisions < DECISIONS {
        let lived = std::panic::catch_unwind(|| live(histories));
        decisions += lived.unwrap_or_else(|panic| {
            eprintln!("that was the history of TRAINYARD_SEED={histories}");
            std::panic::resume_unwind(panic)
        });
        histories += 1;
    }
    assert!(histories > 1000, "{decisions} decisions in {histories} histories");
}
