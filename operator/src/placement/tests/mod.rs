//! Placement, on pools as they are found.

mod builders;
mod cpus;
mod drivers;
mod gates;
mod pools;
mod scheduler;
mod tables;
mod waits;
