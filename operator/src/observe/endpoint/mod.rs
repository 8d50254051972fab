//! What a decision on an endpoint rests on, as plain data: the endpoint as wished, what its status remembers, its Deployment,
//! its pods and what belongs to it as they are.
//!
//! ```text
//!  World ─┬─ Endpoint             what is wished
//!         ├─ ModelEndpointStatus  what is remembered (it becomes the one status)
//!         ├─ Rollout              the Deployment; its template has the Record of the newest revision
//!         ├─ Server…              the pods, each with the Record of its revision
//!         ├─ Parts                Service, disruption budget, autoscaler: there as wished, or not
//!         └─ Trained, Choice      the model of the TrainingJob, and the place of a new revision
//! ```
//!
//! The record of a revision lies in the template of the pods, so that it is made and lost with them: whatever write was the
//! last before a crash, the number of a revision and what it stands for are one.

mod parts;
mod rollout;
mod server;
#[cfg(test)]
mod tests;

use crds::contract::Serving;
use crds::infrastructure::Device;
use crds::model::ModelRef;
use crds::model_endpoint::ServiceType;
use crds::status::{ModelEndpointStatus, ModelStatus, Phase};
use crds::{ModelEndpoint, ModelEndpointSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::parts::{Part, Parts, balancer};
pub use self::rollout::Rollout;
pub use self::server::Server;
use super::Obstacle;

/// All that a decision on an endpoint knows, apart from the time.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// The endpoint as wished.
    pub endpoint: Endpoint,
    /// The status as it was written last.
    pub status: ModelEndpointStatus,
    /// Its Deployment, if there is one.
    pub rollout: Option<Rollout>,
    /// Its pods, by their names.
    pub servers: Vec<Server>,
    /// What else belongs to it.
    pub parts: Parts,
    /// Where a load balancer takes requests for it, once it does.
    pub balancer: Option<String>,
    /// What one of its pods says of itself.
    pub serving: Option<Serving>,
    /// What the TrainingJob that it names has come to; `None` if it names none.
    pub trained: Option<Trained>,
    /// Why no new revision can be made whatever its place: a bad spec, or an API server that takes none.
    pub obstacle: Option<Obstacle>,
    /// Where a new revision would go, or why nowhere. `None` before it was asked for.
    pub place: Option<Result<Choice, Obstacle>>,
}

/// What an endpoint wishes.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Generation of the spec that all of this was read from.
    pub generation: i64,
    /// The model that is to answer.
    pub model: ModelRef,
    /// Whether a newer model of the TrainingJob takes the place of an older one.
    pub follows: bool,
    /// Pods, unless it is suspended.
    pub replicas: u32,
    /// Whether it is to have no pods.
    pub suspend: bool,
    /// Whether an autoscaler sets `replicas`.
    pub autoscaled: bool,
    /// Seconds within which a new revision must be ready.
    pub deadline_seconds: u32,
    /// Kind of its Service.
    pub service: ServiceType,
    /// Port of its Service.
    pub port: u16,
    /// What makes one revision another: the spec without what changes no pod, and without what is as it is by default, so
    /// that a version of Trainyard with more fields finds the same.
    pub recipe: Value,
}

/// One revision: written into the template of its pods, and read from there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its number, from 1.
    pub number: u32,
    /// What the recipe and the model come to: another fingerprint asks for another revision.
    pub fingerprint: String,
    /// Name of the TrainingJob that the model is from, if it was named by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_job: Option<String>,
    /// The model.
    pub model: ModelStatus,
    /// Where its pods run.
    pub place: Choice,
}

/// Where a revision runs. It is chosen once for each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// What computes: Gpu or Cpu.
    pub device: Device,
    /// Name of the runtime in the operator's catalogue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// GPUs of each pod.
    pub gpus: u32,
    /// Why there: a sentence.
    pub reason: String,
}

/// What a TrainingJob has come to.
#[derive(Clone, Debug, PartialEq)]
pub enum Trained {
    /// There is none of the name.
    Missing,
    /// It has no model yet, or never will.
    Without(Phase),
    /// It has left a model.
    Model(ModelStatus),
}

impl Endpoint {
    /// What a resource wishes.
    pub fn of(endpoint: &ModelEndpoint) -> Endpoint {
        let (metadata, spec) = (&endpoint.metadata, &endpoint.spec);
        Endpoint {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            model: spec.model.clone(),
            follows: spec.follow_training_job,
            replicas: spec.replicas,
            suspend: spec.suspend,
            autoscaled: spec.autoscaling.is_some(),
            deadline_seconds: spec.progress_deadline_seconds,
            service: spec.service.kind,
            port: spec.service.port,
            recipe: recipe(spec),
        }
    }

    /// Pods that there should be.
    pub fn wished(&self) -> u32 {
        if self.suspend { 0 } else { self.replicas }
    }
}

/// Fields that change no pod.
const APART: [&str; 7] =
    ["model", "followTrainingJob", "replicas", "autoscaling", "service", "progressDeadlineSeconds", "suspend"];

/// The spec as the pods get it: without the fields that change no pod, and without the model.
pub fn for_pods(spec: &ModelEndpointSpec) -> Value {
    let mut value = json!(spec);
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| !APART.contains(&name.as_str()));
    }
    value
}

fn recipe(spec: &ModelEndpointSpec) -> Value {
    let least: Result<ModelEndpointSpec, _> = serde_json::from_value(json!({"model": {}}));
    let mut value = for_pods(spec);
    if let Ok(least) = least {
        strip(&mut value, &for_pods(&least));
    }
    value
}

/// Takes out what is as it is by default.
fn strip(value: &mut Value, default: &Value) {
    if let (Value::Object(fields), Value::Object(defaults)) = (value, default) {
        for (name, field) in fields.iter_mut() {
            strip(field, defaults.get(name).unwrap_or(&Value::Null));
        }
        fields.retain(|name, field| defaults.get(name) != Some(&*field) && *field != json!({}));
    }
}
