//! What users ask of a cluster day by day: `trainyard status`, `logs`, `events` and so on, also as `kubectl trainyard`.
//!
//! ```text
//!  typed ─► access (client) ─► job, member: what there is as plain data ─► tree, table, lines: text ─► printed
//! ```
//!
//! - `access`: the way to the cluster, and how answers are written.
//! - `job`, `member`: a job and its pods, whatever its kind; `endpoint`: an endpoint and its own; `subject`: either.
//! - `tree`, `lines`, `redact`, `advice`, `paint`: pure, from data to text.
//! - One file for each command, or for a few short ones: `status`, `logs`, `events`, `change` (suspend, resume),
//!   `wait`, `retrain`, `top`, `report`, `evaluations` (and `scored`), `bundle`, `about` (version, nodes, why), `doctor`.
//!
//! Exit codes: 0 done, 1 the job failed or is not there, 2 mistyped, 3 no way to the cluster, 124 the time is over.

pub(crate) mod about;
pub(crate) mod access;
mod advice;
pub(crate) mod bundle;
pub(crate) mod change;
pub(crate) mod doctor;
mod endpoint;
mod error;
pub(crate) mod evaluations;
pub(crate) mod events;
mod job;
mod lines;
pub(crate) mod logs;
mod member;
mod operator;
mod paint;
mod redact;
pub(crate) mod report;
pub(crate) mod retrain;
mod scored;
pub(crate) mod status;
mod subject;
pub(crate) mod top;
mod tree;
pub(crate) mod wait;
