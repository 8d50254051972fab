//! What is to be done about an endpoint: data that `act` carries out in this order - parts, the Deployment, removals, the one
//! status write, events.

use crds::status::ModelEndpointStatus;

use crate::decide::Event;
use crate::observe::endpoint::Record;

/// What is to be done now. An empty plan means that the world is as it should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What belongs to the endpoint and is to be applied.
    pub apply: Vec<Name>,
    /// The revision that the Deployment is to become.
    pub roll: Option<Record>,
    /// Size of a Deployment that otherwise stays as it is.
    pub resize: Option<Size>,
    /// What belongs to it no more.
    pub remove: Vec<Name>,
    /// The status to be written, if it differs from the one written last.
    pub status: Option<ModelEndpointStatus>,
    /// What to tell, once the status is written.
    pub events: Vec<Event>,
    /// Whether a new revision may be due and the world does not say where it would go: decide again on one that does. The rest of
    /// such a plan is not to be carried out.
    pub asks_place: bool,
}

/// Something that belongs to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// Its Service.
    Service,
    /// Its disruption budget.
    Budget,
    /// Its autoscaler.
    Autoscaler,
}

/// What changes about a Deployment without other pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pods.
    pub replicas: u32,
    /// Seconds within which a new revision must be ready.
    pub deadline_seconds: u32,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        *self == Plan::default()
    }
}
