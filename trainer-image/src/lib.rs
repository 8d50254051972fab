//! Trainyard's companion trainer: trains, scores and serves vision models with libtorch.
//!
//! ```text
//!  cli ─► launcher ─► one process per GPU or CPU slot ─► work ─┬─► train ─► model, checkpoint, report
//!                        place  preflight  progress            └─► score ─► rows
//!
//!  data      files to bytes of pixels            ddp    one replica per process, gradients averaged
//!  input     bytes to tensors to probabilities   torch  what tch lacks of libtorch: the only unsafe code
//!  inference a model as scoring and serving use it
//!  zoo       torchvision's networks              optim  optimizers and learning rates
//!  loss      what a training minimises           folder the output: claimed, written whole or not at all
//!  metrics   figures that add up over ranks      causes what each module's errors mean for the end
//!  storage   files and objects, one way to read  fault  how every path ends
//!  affinity  which CPUs a process keeps to       tensorboard  the event file of an attempt
//!  xids      what the driver tells of a GPU that failed
//!  strangers what others may send, for tests and for fuzzers: no part of the product
//! ```

mod affinity;
mod causes;
pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod ddp;
pub mod fault;
pub mod folder;
pub mod inference;
pub mod input;
pub mod launcher;
pub mod loss;
pub mod metrics;
pub mod model;
pub mod optim;
pub mod place;
pub mod preflight;
pub mod progress;
pub mod report;
pub mod score;
mod serve;
pub mod storage;
#[cfg(any(test, fuzzing))]
pub mod strangers;
pub mod tensorboard;
pub mod torch;
pub mod train;
pub mod work;
mod xids;
pub mod zoo;
