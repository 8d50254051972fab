//! What a member is given, and what the world is told: pure functions from plain data.
//!
//! - [`member`]: environment and command of one member, by the contract.
//! - [`assignment`]: the spec as the trainer gets it: every URI one that it can open, every model one with a URI.
//! - [`names`], [`pod`], [`gang`]: the pods of a job, and what a gang of several needs beside them.
//! - [`endpoint`]: the Deployment of an endpoint, and what belongs to it.
//! - [`status`]: the one status of a job, from its ledger, with its `conditions`.

pub mod assignment;
pub(crate) mod conditions;
pub mod endpoint;
pub mod fingerprint;
pub mod gang;
pub mod member;
pub mod names;
pub mod pod;
pub mod status;
