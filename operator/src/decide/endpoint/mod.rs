//! What to do about an endpoint: a pure function of its world, as for jobs.
//!
//! ```text
//!  decide ─┬─ revision  whether the pods have to be others, by model, recipe and place
//!          ├─ describe  phase, message and conditions
//!          └─ plan      what is to be applied, removed, written and told
//! ```
//!
//! An endpoint is one Deployment that takes no old pod away before a new one answers. Its rules:
//! - a revision is made when model or recipe differ from those of the newest one; its place is chosen then, and stays;
//! - what somebody else has changed about its pods is put right, under its number;
//! - numbers of revisions never fall, whatever was lost between two writes;
//! - what can't be made, or does not get ready in time, changes nothing for who answers: the endpoint is held;
//! - no phase is a latch: what was wrong may be put right.

mod describe;
mod plan;
mod revision;
#[cfg(test)]
mod tests;

use jiff::Timestamp;

pub use self::plan::{Name, Plan, Size};
use super::Event;
use crate::observe::Obstacle;
use crate::observe::endpoint::{Part, Record, Rollout, World};

/// What to do about `world` at `now`.
pub fn decide(world: &World, now: Timestamp) -> Plan {
    let mut draft = Draft { world, plan: Plan::default(), obstacle: None };
    draft.keep_parts();
    match draft.revision() {
        Ok(record) => draft.plan.roll = record,
        Err(revision::Wait::ForPlace) => return Plan { asks_place: true, ..Plan::default() },
        Err(revision::Wait::For(obstacle)) => draft.obstacle = Some(obstacle),
    }
    draft.size();
    draft.hold_back();
    draft.describe(now);
    draft.plan
}

/// A decision in the making.
struct Draft<'a> {
    world: &'a World,
    plan: Plan,
    /// Why no new revision can be made, if one should be.
    obstacle: Option<Obstacle>,
}

impl Draft<'_> {
    /// The Service and the budget are always there, the autoscaler where it is wished.
    fn keep_parts(&mut self) {
        let (parts, autoscaled) = (self.world.parts, self.world.endpoint.autoscaled);
        let wished = [
            (Name::Service, parts.service, true),
            (Name::Budget, parts.budget, true),
            (Name::Autoscaler, parts.autoscaler, autoscaled),
        ];
        for (name, part, is_wished) in wished {
            match (part, is_wished) {
                (Part::Missing | Part::Differs, true) => self.plan.apply.push(name),
                (Part::Differs | Part::AsWished, false) => self.plan.remove.push(name),
                (Part::AsWished, true) | (Part::Missing, false) => {}
            }
        }
    }

    /// Brings a Deployment that stays as it is to the wished number of pods, and to the wished deadline.
    fn size(&mut self) {
        let Some(rollout) = self.world.rollout.as_ref().filter(|_| self.plan.roll.is_none()) else { return };
        let endpoint = &self.world.endpoint;
        let wished = Size { replicas: endpoint.wished(), deadline_seconds: endpoint.deadline_seconds };
        if (rollout.wished, rollout.deadline_seconds) != (wished.replicas, wished.deadline_seconds) {
            self.plan.resize = Some(wished);
        }
    }

    /// What the API server takes at no time, or not now, is not sent to it over and over: it is told.
    fn hold_back(&mut self) {
        let Some(obstacle) = &self.world.obstacle else { return };
        let is_passing = obstacle.fails_by.is_none();
        if !self.plan.apply.is_empty() || is_passing && self.plan.resize.is_some() {
            self.obstacle.get_or_insert_with(|| obstacle.clone());
        }
        self.plan.apply.clear();
    }

    /// The newest revision, made or about to be.
    fn newest(&self) -> Option<&Record> {
        self.plan.roll.as_ref().or_else(|| self.world.rollout.as_ref()?.record.as_ref())
    }

    /// The Deployment, if it stays as it is.
    fn standing(&self) -> Option<&Rollout> {
        self.world.rollout.as_ref().filter(|_| self.plan.roll.is_none())
    }

    fn tell(&mut self, warning: bool, reason: &str, note: impl Into<String>) {
        self.plan.events.push(Event { warning, reason: reason.to_owned(), note: note.into() });
    }
}
