//! Trainyard's operator and its command line.
//!
//! ```text
//!  cli ─► manifest ─► observe ─► decide ─► act (pods) or local (processes)
//!                        ▲          │ uses         │ use
//!                      World      policy         build
//! ```
//!
//! - [`manifest`]: YAML with positions, and every fault in it at its line.
//! - [`observe`]: the world as plain data.
//! - [`decide`]: what to do about it, without client, clock, environment or waiting.
//! - [`placement`]: which nodes, device and runtime a job may have, and why not others.
//! - [`build`]: what a member is given: environment and command, as pure functions.
//! - [`local`]: the job as processes of this machine, their state in a folder that a person can read.
//! - [`cli`]: what was typed; `plugin`: the commands for users of a cluster; `shell`: what both take and print.

pub mod build;
pub mod cli;
pub mod cluster;
pub mod decide;
pub mod local;
pub mod manifest;
pub mod observe;
pub mod placement;
mod plugin;
mod shell;

#[cfg(test)]
mod purity;
