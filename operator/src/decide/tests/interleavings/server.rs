//! The API server of a history: pods by name, the status, and what its watch has yet to tell. Each write is held to what was
//! promised of it.
//!
//! `tests/operator/model.rs` has this very file, and plays the same random writes to it and to a real API server. So all that it
//! uses comes from the module above it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{End, How, Job, Ledger, Member, MemberId, MemberState, at, pending};

/// A promise that was broken, in a sentence.
pub(super) type Broken = String;

/// Returns from the function with a sentence unless a promise holds.
macro_rules! promise {
    ($holds:expr, $($sentence:tt)+) => {
        if !$holds {
            return Err(format!($($sentence)+));
        }
    };
}
pub(super) use promise;

/// Pods by name, the status, and what the watch has yet to tell of each pod.
#[derive(Default)]
pub(super) struct Server {
    pub(super) pods: BTreeMap<MemberId, Member>,
    /// Names that pods of an earlier job of this name still have.
    pub(super) foreign: BTreeSet<MemberId>,
    pub(super) untold: BTreeMap<MemberId, VecDeque<Option<Member>>>,
    pub(super) status: Ledger,
    uids: u32,
    created: BTreeMap<MemberId, u32>,
    /// How often each was taken away without the ledger knowing: by somebody else, or by us before the ledger was written.
    taken_away: BTreeMap<MemberId, u32>,
    /// Pods that were cut off once. Their number fences them off, should they come back beside a newer attempt.
    cut_off: BTreeSet<String>,
}

impl Server {
    /// A pod has changed: the watch will tell.
    pub(super) fn changed(&mut self, id: MemberId) {
        let now = self.pods.get(&id).cloned();
        self.untold.entry(id).or_default().push_back(now);
    }

    /// A pod turns to another state, if it is there.
    pub(super) fn turn(&mut self, id: MemberId, state: MemberState) {
        let Some(pod) = self.pods.get_mut(&id) else { return };
        if matches!(state, MemberState::Unreachable | MemberState::Gone) {
            self.cut_off.insert(pod.uid.clone());
        }
        pod.state = state;
        self.changed(id);
    }

    /// Somebody else deletes a pod.
    pub(super) fn lose(&mut self, id: MemberId) {
        self.pods.remove(&id);
        self.forget([id]);
        self.changed(id);
    }

    /// These were taken away, and no ledger knows.
    pub(super) fn forget(&mut self, ids: impl IntoIterator<Item = MemberId>) {
        for id in ids {
            *self.taken_away.entry(id).or_default() += 1;
        }
    }

    /// A pod that is being stopped ends, and goes.
    pub(super) fn finish_stopping(&mut self, id: MemberId, seconds: i64) {
        if self.pods.get(&id).is_some_and(Member::is_live) {
            self.turn(id, MemberState::Ended(End::from_exit(143, None, at(seconds))));
        }
        self.pods.remove(&id);
        self.changed(id);
    }

    /// Creates a pod, unless its name is taken by one of an earlier job or of another spec. Tells whether it is there now.
    pub(super) fn create(&mut self, id: MemberId, node: &str, job: &Job) -> Result<bool, Broken> {
        if self.foreign.contains(&id) {
            return Ok(false);
        }
        if let Some(pod) = self.pods.get(&id) {
            return Ok(pod.spec == Some(job.spec));
        }
        self.uids += 1;
        let (uid, node) = (self.uids.to_string(), Some(node.to_owned()));
        let pod = Member { node, spec: Some(job.spec), ..Member::new(id, uid, pending()) };
        self.pods.insert(id, pod);
        self.changed(id);
        let made = self.created.entry(id).or_default();
        *made += 1;
        let gone = self.taken_away.get(&id).copied().unwrap_or_default();
        promise!(*made <= 1 + gone, "{id:?} was made {made} times, and taken away {gone} times");
        self.one_attempt_lives(job)?;
        promise!(id.attempt == 1 || !self.strays_live(job), "{id:?} was made beside a pod of another spec");
        Ok(true)
    }

    fn one_attempt_lives(&self, job: &Job) -> Result<(), Broken> {
        let mut lives = BTreeMap::new();
        for pod in self.pods.values().filter(|pod| pod.is_live() && !self.cut_off.contains(&pod.uid)) {
            let gang = job.gang_of(pod.id.index);
            let attempt = *lives.entry(gang).or_insert(pod.id.attempt);
            promise!(attempt == pod.id.attempt, "two attempts of gang {gang} live at once");
        }
        Ok(())
    }

    /// Whether a member lives that the job has no gang for, and that was never cut off.
    fn strays_live(&self, job: &Job) -> bool {
        let strays = self.pods.values().filter(|pod| job.gang_of(pod.id.index) >= job.gangs);
        strays.filter(|pod| !self.cut_off.contains(&pod.uid)).any(Member::is_live)
    }

    /// Whether a member of an older attempt of the same gang lives, or one that the job has no gang for.
    pub(super) fn overlaps(&self, id: MemberId, job: &Job) -> bool {
        self.pods.values().filter(|pod| is_older(pod, id, job)).any(Member::is_live) || self.strays_live(job)
    }

    pub(super) fn stop(&mut self, id: MemberId, uid: &str, how: How, seconds: i64) {
        let Some(pod) = self.pods.get_mut(&id).filter(|pod| pod.uid == uid) else { return };
        match how {
            // What is being stopped goes as it would have gone, even if it has ended since: by its kubelet.
            How::Gracefully | How::Clear if pod.stopping_since.is_some() => {}
            // What has ended has nothing to wait for.
            How::Gracefully if pod.end().is_none() => pod.stopping_since = Some(at(seconds)),
            How::Gracefully | How::Clear | How::ByForce => drop(self.pods.remove(&id)),
        }
        self.changed(id);
    }

    pub(super) fn write(&mut self, ledger: &Ledger) -> Result<(), Broken> {
        let before = &self.status;
        promise!(!before.phase.is_terminal(), "a finished job was written to");
        promise!(ledger.attempt >= before.attempt, "the attempt fell");
        promise!(ledger.failures >= before.failures && ledger.restarts >= before.restarts, "a count fell");
        promise!(ledger.done.is_superset(&before.done), "a gang that was done is not any more");
        promise!(ledger.active_seconds >= before.active_seconds, "the time active fell");
        self.status = ledger.clone();
        Ok(())
    }

    /// The job is deleted, and one of its name is made while pods of the old one still have their names.
    pub(super) fn make_again(&mut self) {
        let uids = self.uids;
        let foreign = self.pods.keys().chain(&self.foreign).copied().collect();
        *self = Server { uids, foreign, ..Server::default() };
    }
}

/// Whether a pod is of an older attempt of the gang that a member belongs to.
pub(super) fn is_older(pod: &Member, than: MemberId, job: &Job) -> bool {
    job.gang_of(pod.id.index) == job.gang_of(than.index) && pod.id.attempt < than.attempt
}
