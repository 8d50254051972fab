//! The operator on a real API server: what becomes of jobs when pods end, nodes go, people change their minds, and the
//! operator itself is killed. Pods are played: a test says how each ends.

mod asked;
mod chronicle;
mod cli;
mod crashes;
mod endpoints;
mod faults;
mod hardships;
mod hearsay;
mod late;
mod leading;
mod lives;
mod model;
mod plays;
mod pods;
mod premises;
mod progress;
mod refusals;
mod retold;
mod rights;
mod sweep;
mod ways;
mod wire;
mod yard;
