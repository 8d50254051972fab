//! What is to be done: data that `act` carries out in this order - protection, starts and stops with disconnection beside them,
//! connection, the one status write, events.

use jiff::Timestamp;

use crate::observe::{Attempt, Ledger, MemberId};

/// What is to be done now. An empty plan means that the world is as it should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Members to start. One that exists already is fine: names are deterministic.
    pub start: Vec<MemberId>,
    /// The attempt of a gang of several whose members are all made, and one has a node: they have to find each other.
    pub connect: Option<u32>,
    /// Whether the members of a gang of several are stopped: none has to be found any more, and none to be kept.
    pub disconnect: bool,
    /// Whether the gang has come to run: from now on the loss of one member costs all of them what they did.
    pub protect: bool,
    /// Members to stop or to clear away, each under the precondition of its UID.
    pub stop: Vec<Stop>,
    /// The memory to write down, if it differs from the one that was read.
    pub ledger: Option<Ledger>,
    /// The attempts that it says have ended and the one that was read did not: all of them, where the memory keeps a few.
    pub ended: Vec<Attempt>,
    /// What to tell, once the memory is written.
    pub events: Vec<Event>,
    /// Whether something is to start and the world does not say where: decide again on one that does. The rest of such a plan
    /// is not to be carried out.
    pub asks_place: bool,
    /// When to look again even if nothing is heard until then.
    pub wake: Option<Timestamp>,
}

/// A member to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Which one.
    pub id: MemberId,
    /// Its UID.
    pub uid: String,
    /// How.
    pub how: How,
}

/// How a member is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// It has ended already: its remains are cleared away.
    Clear,
    /// SIGTERM: it finishes its step and commits a checkpoint.
    Gracefully,
    /// At once. A member that can't be reached is written off.
    ByForce,
}

/// Something that a person wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether it is bad news.
    pub warning: bool,
    /// Reason in CamelCase, one of `crds::reasons` or a cause's name.
    pub reason: String,
    /// A sentence.
    pub note: String,
}

impl Plan {
    /// Whether nothing is to be done (waking up later is nothing).
    pub fn is_empty(&self) -> bool {
        let is_still = self.start.is_empty() && self.stop.is_empty() && self.connect.is_none() && !self.disconnect;
        is_still && self.ledger.is_none() && self.events.is_empty()
    }
}
