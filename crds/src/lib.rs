//! Trainyard's contract: the custom resources, and every name that the operator and the trainer share. No I/O.
//!
//! ```text
//! training_job  scoring_job  model_endpoint     the three kinds
//!      │  model  data  training  optimizer  schedule
//!      └─ infrastructure ─ pod    run_policy    what they are made of
//! status  reasons                               what the operator says about them
//! contract                                      what operator and trainer say to each other
//! uri                                           where data, models and outputs are
//! schema  rules                                 hand-written schemas and shared CEL rules
//! ```

#![expect(unreachable_pub, reason = "KubeSchema copies each struct into a function, `pub` and all")]

pub mod contract;
pub mod data;
pub mod infrastructure;
pub mod model;
pub mod model_endpoint;
pub mod optimizer;
pub mod pod;
pub mod reasons;
mod rules;
pub mod run_policy;
pub mod schedule;
mod schema;
pub mod scoring_job;
pub mod status;
pub mod training;
pub mod training_job;
pub mod uri;

pub use model_endpoint::{ModelEndpoint, ModelEndpointSpec};
pub use scoring_job::{ScoringJob, ScoringJobSpec};
pub use training_job::{TrainingJob, TrainingJobSpec};
