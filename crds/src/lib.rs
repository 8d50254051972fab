//! Trainyard's contract: the custom resources, and every name that the operator and the trainer share. No I/O.
//!
//! ```text
//! training_job  scoring_job  model_endpoint     the three kinds
//!      │  model  data  training  optimizer  schedule
//!      └─ infrastructure ─ pod    run_policy    what they are made of
//! status  reasons                               what the operator says about them
//! contract                                      what operator and trainer say to each other
//! causes                                        what each cause of an end means, for people
//! evaluation                                    the history of a model's evaluations
//! cuda                                          which driver runs which CUDA, which GPU runs which code
//! xid                                           what the driver says of broken GPUs
//! quantity                                      what an amount of Kubernetes says
//! uri                                           where data, models and outputs are
//! schema  rules                                 hand-written schemas and shared CEL rules
//!
//! check ─► structural, CEL ─► a Resource        a manifest, read as the API server would
//! meaning  support  fault                       what schema and CEL can't say, as faults for people
//! manifest  reference                           the definitions as YAML, and their fields as a page
//! ```
//!
//! The feature `kube` has what checks manifests and writes YAML; the trainer does without it.

#![expect(clippy::duplicated_attributes, reason = "printer columns have their types in common")]
#![expect(unreachable_pub, reason = "KubeSchema copies each struct into a function, `pub` and all")]

pub mod causes;
#[cfg(feature = "kube")]
pub mod check;
pub mod contract;
pub mod cuda;
pub mod data;
pub mod evaluation;
pub mod fault;
pub mod infrastructure;
#[cfg(feature = "kube")]
pub mod manifest;
mod meaning;
pub mod model;
pub mod model_endpoint;
pub mod open;
pub mod optimizer;
pub mod pod;
pub mod quantity;
pub mod reasons;
#[cfg(feature = "kube")]
pub mod reference;
mod rules;
pub mod run_policy;
pub mod schedule;
mod schema;
pub mod scoring_job;
pub mod status;
#[cfg(feature = "kube")]
mod structural;
pub mod support;
pub mod training;
pub mod training_job;
pub mod uri;
pub mod xid;

pub use model_endpoint::{ModelEndpoint, ModelEndpointSpec};
pub use scoring_job::{ScoringJob, ScoringJobSpec};
pub use training_job::{TrainingJob, TrainingJobSpec};
