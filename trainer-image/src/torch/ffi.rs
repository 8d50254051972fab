//! The functions of `shim/shim.h`, word for word, and how their results are read.

use std::borrow::Borrow;
use std::ffi::{CStr, CString, c_char, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use super::TorchError;

/// `ty_group`: only pointers to it exist here.
#[repr(C)]
pub(super) struct Group {
    _private: [u8; 0],
}

/// `ty_reducer`: only pointers to it exist here.
#[repr(C)]
pub(super) struct Reducer {
    _private: [u8; 0],
}

/// `ty_lane`: only pointers to it exist here.
#[repr(C)]
pub(super) struct Lane {
    _private: [u8; 0],
}

/// `ty_arrival`: only pointers to it exist here.
#[repr(C)]
pub(super) struct Arrival {
    _private: [u8; 0],
}

/// `ty_graph`: only pointers to it exist here.
#[repr(C)]
pub(super) struct Graph {
    _private: [u8; 0],
}

// `c10::DeviceType`.
pub(super) const CPU: i32 = 0;
pub(super) const CUDA: i32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ReducerOptions {
    pub(super) bucket_bytes: i64,
    pub(super) first_bucket_bytes: i64,
    pub(super) find_unused: bool,
    pub(super) gradient_as_bucket_view: bool,
    pub(super) broadcast_buffers: bool,
    pub(super) compression: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct BatchNorm {
    pub(super) weight: *mut C_tensor,
    pub(super) bias: *mut C_tensor,
    pub(super) running_mean: *mut C_tensor,
    pub(super) running_var: *mut C_tensor,
    pub(super) momentum: f64,
    pub(super) epsilon: f64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Autocast {
    pub(super) enabled: bool,
    pub(super) cache_enabled: bool,
    pub(super) dtype: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct ConvShape {
    pub(super) padding: i64,
    pub(super) stride: i64,
    pub(super) groups: i64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Sgd {
    pub(super) learning_rate: f64,
    pub(super) momentum: f64,
    pub(super) dampening: f64,
    pub(super) weight_decay: f64,
    pub(super) nesterov: bool,
    pub(super) first_step: bool,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct OnDevice {
    pub(super) learning_rate: *mut C_tensor,
    pub(super) overflowed: *mut C_tensor,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Adam {
    pub(super) learning_rate: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) epsilon: f64,
    pub(super) weight_decay: f64,
    pub(super) decoupled: bool,
    pub(super) amsgrad: bool,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Adagrad {
    pub(super) learning_rate: f64,
    pub(super) learning_rate_decay: f64,
    pub(super) weight_decay: f64,
    pub(super) epsilon: f64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RmsProp {
    pub(super) learning_rate: f64,
    pub(super) alpha: f64,
    pub(super) epsilon: f64,
    pub(super) weight_decay: f64,
    pub(super) momentum: f64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Adadelta {
    pub(super) learning_rate: f64,
    pub(super) rho: f64,
    pub(super) epsilon: f64,
    pub(super) weight_decay: f64,
}

type Status = i32;
type Tensors = *const *mut C_tensor;
pub(super) type LastWords = extern "C" fn(text: *const c_char) -> i32;

#[rustfmt::skip]
unsafe extern "C" {
    pub(super) fn ty_error_text() -> *const c_char;
    pub(super) fn ty_log_level(severity: i32);

    pub(super) fn ty_group_open(host: *const c_char, port: u16, is_host: bool, rank: i32, size: i32, timeout_ms: i64, out: *mut *mut Group) -> Status;
    pub(super) fn ty_group_prefix(group: *mut Group, prefix: *const c_char) -> Status;
    pub(super) fn ty_store_set(group: *mut Group, key: *const c_char, value: *const u8, length: usize) -> Status;
    pub(super) fn ty_store_get(group: *mut Group, key: *const c_char, timeout_ms: i64, value: *mut *mut u8, length: *mut usize) -> Status;
    pub(super) fn ty_store_add(group: *mut Group, key: *const c_char, amount: i64, sum: *mut i64) -> Status;
    pub(super) fn ty_store_has(group: *mut Group, key: *const c_char, out: *mut bool) -> Status;
    pub(super) fn ty_free_bytes(bytes: *mut u8);
    pub(super) fn ty_group_connect_gloo(group: *mut Group, address: *const c_char, timeout_ms: i64) -> Status;
    pub(super) fn ty_group_connect_nccl(group: *mut Group, index: i32, timeout_ms: i64) -> Status;
    pub(super) fn ty_group_all_reduce_sum(group: *mut Group, tensor: *mut C_tensor) -> Status;
    pub(super) fn ty_group_broadcast(group: *mut Group, tensor: *mut C_tensor, root: i32) -> Status;
    pub(super) fn ty_group_all_gather(group: *mut Group, out: *mut C_tensor, tensor: *mut C_tensor) -> Status;
    pub(super) fn ty_group_barrier(group: *mut Group) -> Status;
    pub(super) fn ty_group_share(group: *mut Group, out: *mut *mut Group) -> Status;
    pub(super) fn ty_sync_batch_norm(group: *mut Group, images: *mut C_tensor, norm: BatchNorm, out: *mut *mut C_tensor) -> Status;
    pub(super) fn ty_group_flights(group: *mut Group, text: *mut *mut u8, length: *mut usize) -> Status;
    pub(super) fn ty_group_settle(group: *mut Group) -> Status;
    pub(super) fn ty_group_abort(group: *mut Group) -> Status;
    pub(super) fn ty_group_free(group: *mut Group) -> Status;
    pub(super) fn ty_on_lost_peer(tell: LastWords);
    pub(super) fn ty_cuda_load(path: *const c_char) -> Status;
    pub(super) fn ty_cuda_use(index: i32) -> Status;

    pub(super) fn ty_verify_parameters(group: *mut Group, parameters: Tensors, count: usize) -> Status;
    pub(super) fn ty_broadcast_coalesced(group: *mut Group, tensors: Tensors, count: usize, chunk_bytes: usize, root: i32) -> Status;
    pub(super) fn ty_assign_buckets(tensors: Tensors, count: usize, limits: *const usize, limit_count: usize, bucket_of: *mut usize, buckets: *mut usize) -> Status;
    pub(super) fn ty_reducer_new(group: *mut Group, parameters: Tensors, names: *const *const c_char, count: usize, members: *const usize, starts: *const usize, buckets: usize, options: ReducerOptions, out: *mut *mut Reducer) -> Status;
    pub(super) fn ty_reducer_before_forward(reducer: *mut Reducer) -> Status;
    pub(super) fn ty_reducer_rebuild_buckets(reducer: *mut Reducer, rebuilt: *mut bool) -> Status;
    pub(super) fn ty_reducer_before_backward(reducer: *mut Reducer, outputs: Tensors, count: usize) -> Status;
    pub(super) fn ty_reducer_sample_rate(reducer: *mut Reducer, rate: i32) -> Status;
    pub(super) fn ty_reducer_figures(reducer: *mut Reducer, text: *mut *mut u8, length: *mut usize) -> Status;
    pub(super) fn ty_reducer_bytes(reducer: *mut Reducer, bytes: *mut i64) -> Status;
    pub(super) fn ty_reducer_free(reducer: *mut Reducer) -> Status;

    pub(super) fn ty_backward(loss: *mut C_tensor) -> Status;
    pub(super) fn ty_clear_gradients(parameters: Tensors, count: usize) -> Status;
    pub(super) fn ty_clip_gradients(parameters: Tensors, count: usize, max_norm: f64, norm: *mut *mut C_tensor) -> Status;
    pub(super) fn ty_set_channels_last(tensor: *mut C_tensor) -> Status;
    pub(super) fn ty_to_channels_last(tensor: *mut C_tensor, out: *mut *mut C_tensor) -> Status;
    pub(super) fn ty_is_channels_last(tensor: *const C_tensor) -> bool;
    pub(super) fn ty_autocast_enter(device_type: i32, enabled: bool, dtype: i32, before: *mut Autocast) -> Status;
    pub(super) fn ty_autocast_leave(device_type: i32, before: Autocast) -> Status;
    pub(super) fn ty_allow_only_deterministic() -> Status;
    pub(super) fn ty_is_deterministic() -> bool;
    pub(super) fn ty_rng_state(out: *mut *mut C_tensor) -> Status;
    pub(super) fn ty_set_rng_state(state: *mut C_tensor) -> Status;
    pub(super) fn ty_lane_new(device_type: i32, index: i32, out: *mut *mut Lane) -> Status;
    pub(super) fn ty_lane_upload(lane: *mut Lane, data: *const c_void, sizes: *const i64, dimensions: usize, kind: i32, out: *mut *mut C_tensor) -> Status;
    pub(super) fn ty_lane_snapshot(lane: *mut Lane, sources: Tensors, count: usize, copies: *mut *mut C_tensor, arrival: *mut *mut Arrival) -> Status;
    pub(super) fn ty_lane_free(lane: *mut Lane) -> Status;
    pub(super) fn ty_read_back(source: *mut C_tensor, out: *mut *mut C_tensor, arrival: *mut *mut Arrival) -> Status;
    pub(super) fn ty_arrival_wait(arrival: *mut Arrival) -> Status;
    pub(super) fn ty_arrival_free(arrival: *mut Arrival) -> Status;

    pub(super) fn ty_compute_beside(device_type: i32, index: i32) -> Status;
    pub(super) fn ty_graph_room(index: i32, available: *mut i64, step: *mut i64) -> Status;
    pub(super) fn ty_graph_begin(index: i32, out: *mut *mut Graph) -> Status;
    pub(super) fn ty_graph_end(graph: *mut Graph) -> Status;
    pub(super) fn ty_graph_replay(graph: *mut Graph) -> Status;
    pub(super) fn ty_graph_free(graph: *mut Graph) -> Status;

    pub(super) fn ty_packs(kind: i32, out: *mut bool) -> Status;
    pub(super) fn ty_pack_conv(weight: *mut C_tensor, shape: ConvShape, input_size: *const i64, out: *mut *mut C_tensor) -> Status;
    pub(super) fn ty_packed_conv(images: *mut C_tensor, weight: *mut C_tensor, bias: *mut C_tensor, shape: ConvShape, activation: *const c_char, out: *mut *mut C_tensor) -> Status;
    pub(super) fn ty_packed_conv_add(images: *mut C_tensor, weight: *mut C_tensor, bias: *mut C_tensor, shape: ConvShape, activation: *const c_char, sum: *mut C_tensor, out: *mut *mut C_tensor) -> Status;
    pub(super) fn ty_fused_sgd(parameters: Tensors, buffers: Tensors, count: usize, options: Sgd, on_device: OnDevice) -> Status;
    pub(super) fn ty_fused_adam(parameters: Tensors, means: Tensors, squares: Tensors, max_squares: Tensors, steps: Tensors, count: usize, options: Adam, on_device: OnDevice) -> Status;
    pub(super) fn ty_fused_adagrad(parameters: Tensors, sums: Tensors, steps: Tensors, count: usize, options: Adagrad) -> Status;
    pub(super) fn ty_rmsprop(parameters: Tensors, squares: Tensors, buffers: Tensors, steps: Tensors, count: usize, options: RmsProp) -> Status;
    pub(super) fn ty_adamax(parameters: Tensors, means: Tensors, norms: Tensors, steps: Tensors, count: usize, options: Adam) -> Status;
    pub(super) fn ty_adadelta(parameters: Tensors, squares: Tensors, deltas: Tensors, steps: Tensors, count: usize, options: Adadelta) -> Status;
    pub(super) fn ty_unscale_gradients(parameters: Tensors, count: usize, inverse: f32, overflowed: *mut bool) -> Status;
    pub(super) fn ty_unscale_gradients_there(parameters: Tensors, count: usize, inverse: *mut C_tensor, overflowed: *mut C_tensor) -> Status;
    pub(super) fn ty_update_scale(scale: *mut C_tensor, good_steps: *mut C_tensor, overflowed: *mut C_tensor, growth: f64, backoff: f64, interval: i64) -> Status;
    pub(super) fn ty_lerp(targets: Tensors, sources: Tensors, count: usize, weight: f64) -> Status;
}

/// Reads the status of the call that was just made on this thread.
pub(super) fn check(status: Status) -> Result<(), TorchError> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the shim returns a C string that stays valid until its next call on this thread.
    let text = unsafe { CStr::from_ptr(ty_error_text()) };
    Err(TorchError::from_status(status, &text.to_string_lossy()))
}

/// The pointer that the shim takes for a tensor. The shim borrows it; changing a tensor's content through a shared
/// reference is what tensors are like in tch, too.
pub(super) fn pointer(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}

/// The pointers of several tensors.
pub(super) fn pointers(tensors: &[impl Borrow<Tensor>]) -> Vec<*mut C_tensor> {
    tensors.iter().map(|tensor| pointer(tensor.borrow())).collect()
}

/// A tensor that the shim made.
///
/// # Errors
/// What the call said.
pub(super) fn new_tensor(call: impl FnOnce(*mut *mut C_tensor) -> Status) -> Result<Tensor, TorchError> {
    let mut out = std::ptr::null_mut();
    check(call(&raw mut out))?;
    // SAFETY: on success the shim has stored a tensor that is ours to free.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Bytes that the shim made.
///
/// # Errors
/// What the call said.
pub(super) fn new_bytes(call: impl FnOnce(*mut *mut u8, *mut usize) -> Status) -> Result<Vec<u8>, TorchError> {
    let (mut bytes, mut length) = (std::ptr::null_mut(), 0);
    check(call(&raw mut bytes, &raw mut length))?;
    // SAFETY: on success the shim has stored the address and the length of what it allocated, which is freed once.
    unsafe {
        let copy = std::slice::from_raw_parts(bytes, length).to_vec();
        ty_free_bytes(bytes);
        Ok(copy)
    }
}

/// A C string; a NUL inside the text ends it.
pub(super) fn c_string(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}
