//! What rank 0 tells while it works: `GET /progress` (the contract's JSON) and `GET /metrics` (Prometheus), and the rates
//! in them. Needs no libtorch.

mod meter;
mod metrics;
mod server;

pub use meter::{Meter, Rates};
pub use server::{ProgressError, ProgressHandle, ProgressServer};
