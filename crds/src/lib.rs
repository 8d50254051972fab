//! Trainyard's contract.

pub mod contract;
