//! What libtorch has and tch lacks, behind a safe face: process groups, DDP's reducer, memory formats, autocast, determinism,
//! optimizer steps, packed convolutions, copies beside what is computed, work that a GPU gets as a whole and the generator's state. The
//! C++ half lies in `shim/`; `shim/shim.h` fixes what passes between.
//!
//! This module is the only place with unsafe code. Every exception of C++ arrives as a [`TorchError`].
#![expect(unsafe_code, reason = "calls C++; each block says why it is sound")]

mod autocast;
mod cuda;
pub mod driver;
mod error;
mod ffi;
mod graph;
mod lane;
mod last_words;
mod memory;
pub mod nvml;
mod optim;
mod packed;
mod process_group;
pub(crate) mod reducer;
mod sync_norm;
mod tensor;

pub use self::reducer::{Reducer, ReducerOptions, assign_buckets};
pub use autocast::Autocast;
pub use cuda::{load_cuda, use_gpu};
pub(crate) use error::ASSERTED;
pub use error::TorchError;
pub use graph::{Graph, Room, compute_beside};
pub use lane::{Lane, OnItsWay, Snapshot, read_back};
pub(crate) use last_words::on_lost_peer;
pub use memory::{give_back_memory, keep_memory};
pub use optim::{
    AdadeltaStep, AdagradStep, AdamStep, OnDevice, RmsPropStep, ScaleChange, SgdStep, adadelta, adamax,
    clear_gradients, clip_gradients, fused_adagrad, fused_adam, fused_sgd, lerp, rmsprop, unscale_gradients,
    unscale_gradients_there, update_scale,
};
pub use packed::{ConvShape, Fused, PackedConv, packs};
pub use process_group::{Endpoint, ProcessGroup};
pub use sync_norm::{NormRanks, SyncNorm};
pub(crate) use tensor::end_process;
pub use tensor::{
    LogLevel, allow_only_deterministic, backward, is_channels_last, is_deterministic, rng_state, set_channels_last,
    set_log_level, set_rng_state, to_channels_last,
};
