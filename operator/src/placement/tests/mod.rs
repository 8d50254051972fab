//! Placement, on pools as they are found.

mod builders;
mod drivers;
mod gates;
mod pools;
mod scheduler;
mod tables;
