//! A job on this machine: `decide` with processes in the place of pods, and a folder in the place of the API server.
//!
//! ```text
//!  job + folder ─► World ─► decide ─► Plan ─► children (start, stop) ─► memory, status, events
//!    ▲                                            │
//!    └── children.reap, poll ◄────────────────────┘       view shows it, report tells the end
//! ```
//!
//! An endpoint has nothing to decide here: `serve` is one process, until a signal comes.

mod children;
mod device;
mod environment;
mod error;
mod folder;
mod inputs;
mod job;
mod poll;
mod report;
mod runner;
mod serve;
mod traces;
mod trainer;
mod view;

pub use error::RunError;
pub use folder::STATE;
pub use report::Outcome;
pub use runner::{Options, run};
pub use traces::traces;
pub use trainer::find as find_trainer;
