// The C face of what tch lacks of libtorch: process groups, DDP's reducer, memory formats, autocast, fused optimizers
// and the generator's state. `src/torch/ffi.rs` declares the same functions to Rust.
//
// Rules: a tensor is the `at::Tensor*` that torch-sys calls `C_tensor*`, and is borrowed unless a line says otherwise.
// Every function that can throw returns a `ty_status`; on any but TY_OK, `ty_error_text` says what happened.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
namespace at {
class Tensor;
}
using ty_tensor = at::Tensor;
extern "C" {
#else
typedef struct ty_tensor ty_tensor;
#endif

// What kind of exception was caught, where its type alone tells. The rest is told by its text.
typedef enum ty_status {
  TY_OK = 0,
  TY_OTHER = 1,
  // A backend, the store or the network between ranks failed.
  TY_DISTRIBUTED = 2,
  TY_HOST_MEMORY = 3,
  TY_DEVICE_MEMORY = 4,
  // The accelerator itself reported an error.
  TY_DEVICE_FAULT = 5,
} ty_status;

typedef struct ty_group ty_group;
typedef struct ty_reducer ty_reducer;
typedef struct ty_lane ty_lane;
typedef struct ty_arrival ty_arrival;
typedef struct ty_graph ty_graph;

// Text of the last failure on this thread; valid until the next call on this thread.
const char* ty_error_text(void);
// Lets through log lines of libtorch from this severity on: 0 all, 1 warnings, 2 errors, 3 fatal ones.
void ty_log_level(int severity);

// ---- groups (group.cpp) ----

// Opens the store: as a server if `is_host`, else as a client that waits for it. With `size` 1 it stays in the process.
ty_status ty_group_open(const char* host, uint16_t port, bool is_host, int rank, int size, int64_t timeout_ms,
                        ty_group** out);
// Puts `prefix` before every key from now on.
ty_status ty_group_prefix(ty_group* group, const char* prefix);
ty_status ty_store_set(ty_group* group, const char* key, const uint8_t* value, size_t length);
// Waits for the key. The value is freed by ty_free_bytes.
ty_status ty_store_get(ty_group* group, const char* key, int64_t timeout_ms, uint8_t** value, size_t* length);
ty_status ty_store_add(ty_group* group, const char* key, int64_t amount, int64_t* sum);
ty_status ty_store_has(ty_group* group, const char* key, bool* out);
void ty_free_bytes(uint8_t* bytes);
// Connects all ranks by Gloo on the interface that has `address`; an empty one means GLOO_SOCKET_IFNAME or the default.
ty_status ty_group_connect_gloo(ty_group* group, const char* address, int64_t timeout_ms);
// Connects all ranks by NCCL, this one with device `index`. Needs ty_cuda_load.
ty_status ty_group_connect_nccl(ty_group* group, int index, int64_t timeout_ms);
ty_status ty_group_all_reduce_sum(ty_group* group, ty_tensor* tensor);
ty_status ty_group_broadcast(ty_group* group, ty_tensor* tensor, int root);
// `out` has the shape of `tensor` with the number of ranks before it.
ty_status ty_group_all_gather(ty_group* group, ty_tensor* out, ty_tensor* tensor);
ty_status ty_group_barrier(ty_group* group);
// Another handle of the same group, freed by ty_group_free as well.
ty_status ty_group_share(ty_group* group, ty_group** out);
// The collectives that did not end, as JSON in the form of libtorch's flight recorder; freed by ty_free_bytes.
ty_status ty_group_flights(ty_group* group, uint8_t** text, size_t* length);
// Waits until each collective of this rank has ended.
ty_status ty_group_settle(ty_group* group);
// Gives up the connections, whatever the other ranks do.
ty_status ty_group_abort(ty_group* group);
ty_status ty_group_free(ty_group* group);

// ---- the end by a thread of libtorch (last_words.cpp) ----

// Says what ended the process, and gives the exit code.
typedef int (*ty_last_words)(const char* text);
// Calls `tell` where a failure between ranks leaves a thread of libtorch, and ends with its exit code. Other exceptions go
// the way they went.
void ty_on_lost_peer(ty_last_words tell);

// ---- the CUDA plug-in (plugin.cpp) ----

// Opens it. Before any other use of CUDA in the process.
ty_status ty_cuda_load(const char* path);
// From now on GPU `index` is the one of this thread, which opens no other. Needs ty_cuda_load.
ty_status ty_cuda_use(int index);

// ---- DDP's reducer (reducer.cpp) ----

ty_status ty_verify_parameters(ty_group* group, ty_tensor* const* parameters, size_t count);
ty_status ty_broadcast_coalesced(ty_group* group, ty_tensor* const* tensors, size_t count, size_t chunk_bytes, int root);
// Writes the bucket of each tensor to `bucket_of` and the number of buckets to `buckets`, in libtorch's order.
ty_status ty_assign_buckets(ty_tensor* const* tensors, size_t count, const size_t* limits, size_t limit_count,
                            size_t* bucket_of, size_t* buckets);

typedef struct ty_reducer_options {
  int64_t bucket_bytes;
  int64_t first_bucket_bytes;
  bool find_unused;
  bool gradient_as_bucket_view;
  bool broadcast_buffers;
  // Kind in which gradients travel, as libtorch numbers them (5: Half, 15: BFloat16); -1: their own.
  int compression;
} ty_reducer_options;

// `names[i]` belongs to `parameters[i]`. Bucket b holds the parameters `members[starts[b] .. starts[b + 1]]`.
ty_status ty_reducer_new(ty_group* group, ty_tensor* const* parameters, const char* const* names, size_t count,
                         const size_t* members, const size_t* starts, size_t buckets, ty_reducer_options options,
                         ty_reducer** out);
ty_status ty_reducer_before_forward(ty_reducer* reducer);
ty_status ty_reducer_rebuild_buckets(ty_reducer* reducer, bool* rebuilt);
ty_status ty_reducer_before_backward(ty_reducer* reducer, ty_tensor* const* outputs, size_t count);
ty_status ty_reducer_sample_rate(ty_reducer* reducer, int rate);
// Figures as lines `key<TAB>integer`; freed by ty_free_bytes.
ty_status ty_reducer_figures(ty_reducer* reducer, uint8_t** text, size_t* length);
// Bytes of gradients that this rank has handed to collectives.
ty_status ty_reducer_bytes(ty_reducer* reducer, int64_t* bytes);
ty_status ty_reducer_free(ty_reducer* reducer);

// ---- batch norm over all ranks (sync_norm.cpp) ----

typedef struct ty_batch_norm {
  ty_tensor *weight, *bias, *running_mean, *running_var;
  double momentum, epsilon;
} ty_batch_norm;

// In training: updates the running statistics, and gives a tensor that the caller owns. All ranks call it alike.
ty_status ty_sync_batch_norm(ty_group* group, ty_tensor* images, ty_batch_norm norm, ty_tensor** out);

// ---- tensors (tensor.cpp) ----

ty_status ty_backward(ty_tensor* loss);
ty_status ty_clear_gradients(ty_tensor* const* parameters, size_t count);
// Norm of all gradients together, before they were scaled down to `max_norm`, as a tensor that the caller owns.
ty_status ty_clip_gradients(ty_tensor* const* parameters, size_t count, double max_norm, ty_tensor** norm);
ty_status ty_set_channels_last(ty_tensor* tensor);
// A tensor that the caller owns.
ty_status ty_to_channels_last(ty_tensor* tensor, ty_tensor** out);
bool ty_is_channels_last(const ty_tensor* tensor);

typedef struct ty_autocast {
  bool enabled;
  bool cache_enabled;
  int dtype;
} ty_autocast;

// `before` receives what was set; give it to ty_autocast_leave.
ty_status ty_autocast_enter(int device_type, bool enabled, int dtype, ty_autocast* before);
ty_status ty_autocast_leave(int device_type, ty_autocast before);

// From now on an operation without a deterministic algorithm fails.
ty_status ty_allow_only_deterministic(void);
bool ty_is_deterministic(void);

// State of the CPU's default generator as a byte tensor that the caller owns.
ty_status ty_rng_state(ty_tensor** out);
ty_status ty_set_rng_state(ty_tensor* state);

// ---- copies beside what a GPU computes (lane.cpp) ----

// A stream beside the one that computes, for copies; on a CPU copies are done at once. `device_type` is a c10::DeviceType.
ty_status ty_lane_new(int device_type, int index, ty_lane** out);
// Brings values to the device, which computes with them once they are there. `data` is free when this returns, `kind` a
// c10::ScalarType; the caller owns the tensor.
ty_status ty_lane_upload(ty_lane* lane, const void* data, const int64_t* sizes, size_t dimensions, int kind,
                         ty_tensor** out);
// Copies tensors as they are now to the host, contiguous in the usual order of dimensions: `copies` has room for `count` of
// them. Their values are there when `arrival` says so; the caller owns all.
ty_status ty_lane_snapshot(ty_lane* lane, ty_tensor* const* sources, size_t count, ty_tensor** copies,
                           ty_arrival** arrival);
ty_status ty_lane_free(ty_lane* lane);
// The same for one tensor, behind what was handed to its device before; a tensor of the host is given back as it is.
ty_status ty_read_back(ty_tensor* source, ty_tensor** out, ty_arrival** arrival);
// By any thread.
ty_status ty_arrival_wait(ty_arrival* arrival);
ty_status ty_arrival_free(ty_arrival* arrival);

// ---- work that a GPU gets as a whole (graph.cpp) ----

// From now on this thread computes on a stream other than the default one, which can't be recorded. Before any tensor that a
// recording is to use is made.
ty_status ty_compute_beside(int device_type, int index);
// Bytes of GPU `index`: what is left for tensors, and what a step so far has taken for itself at most.
ty_status ty_graph_room(int index, int64_t* available, int64_t* step);
// From here to the end, what this thread has GPU `index` do is recorded and not done.
ty_status ty_graph_begin(int index, ty_graph** out);
ty_status ty_graph_end(ty_graph* graph);
// Does all that was recorded, with what is now in the memory of the tensors that it used.
ty_status ty_graph_replay(ty_graph* graph);
// A graph without an end is given up.
ty_status ty_graph_free(ty_graph* graph);

// ---- convolutions prepared for inference on CPUs (packed.cpp) ----

// Square, without dilation.
typedef struct ty_conv_shape {
  int64_t padding, stride, groups;
} ty_conv_shape;

// Whether this CPU computes packed convolutions of this c10::ScalarType.
ty_status ty_packs(int kind, bool* out);
// A weight as oneDNN computes with it for images of this size, [batch, channels, height, width]; the caller owns it.
ty_status ty_pack_conv(ty_tensor* weight, ty_conv_shape shape, const int64_t* input_size, ty_tensor** out);
// `weight` is packed, `bias` may be null. Activations: `none`, `relu`, `swish`, `hardswish`, `gelu`.
ty_status ty_packed_conv(ty_tensor* images, ty_tensor* weight, ty_tensor* bias, ty_conv_shape shape,
                         const char* activation, ty_tensor** out);
// Adds the result to `sum` in place. `activation` is null or `relu`.
ty_status ty_packed_conv_add(ty_tensor* images, ty_tensor* weight, ty_tensor* bias, ty_conv_shape shape,
                             const char* activation, ty_tensor* sum, ty_tensor** out);

// ---- optimizers (optim.cpp): fused kernels, or foreach operations; parameters without a gradient are left out ----

typedef struct ty_sgd {
  double learning_rate, momentum, dampening, weight_decay;
  bool nesterov, first_step;
} ty_sgd;

// What a GPU can be told by tensors of its own, so that the call is the same for all steps; null where the options tell it.
typedef struct ty_on_device {
  // A float scalar.
  ty_tensor* learning_rate;
  // The same: 1 where gradients are not to be used, 0 else.
  ty_tensor* overflowed;
} ty_on_device;

// `buffers` is null without momentum.
ty_status ty_fused_sgd(ty_tensor* const* parameters, ty_tensor* const* buffers, size_t count, ty_sgd options,
                       ty_on_device on_device);

typedef struct ty_adam {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  bool decoupled, amsgrad;
} ty_adam;

// `steps` are scalar float tensors. `max_squares` is null without amsgrad.
ty_status ty_fused_adam(ty_tensor* const* parameters, ty_tensor* const* means, ty_tensor* const* squares,
                        ty_tensor* const* max_squares, ty_tensor* const* steps, size_t count, ty_adam options,
                        ty_on_device on_device);

typedef struct ty_adagrad {
  double learning_rate, learning_rate_decay, weight_decay, epsilon;
} ty_adagrad;

// `steps` as above, on the parameters' device. In the functions below they lie on the host.
ty_status ty_fused_adagrad(ty_tensor* const* parameters, ty_tensor* const* sums, ty_tensor* const* steps, size_t count,
                           ty_adagrad options);

typedef struct ty_rmsprop_options {
  double learning_rate, alpha, epsilon, weight_decay, momentum;
} ty_rmsprop_options;

// `buffers` is null without momentum.
ty_status ty_rmsprop(ty_tensor* const* parameters, ty_tensor* const* squares, ty_tensor* const* buffers,
                     ty_tensor* const* steps, size_t count, ty_rmsprop_options options);

// Of the options the two booleans mean nothing.
ty_status ty_adamax(ty_tensor* const* parameters, ty_tensor* const* means, ty_tensor* const* norms,
                    ty_tensor* const* steps, size_t count, ty_adam options);

typedef struct ty_adadelta_options {
  double learning_rate, rho, epsilon, weight_decay;
} ty_adadelta_options;

ty_status ty_adadelta(ty_tensor* const* parameters, ty_tensor* const* squares, ty_tensor* const* deltas,
                      ty_tensor* const* steps, size_t count, ty_adadelta_options options);

// Multiplies all gradients by `inverse`; tells whether one of them was not finite.
ty_status ty_unscale_gradients(ty_tensor* const* parameters, size_t count, float inverse, bool* overflowed);
// The same where a GPU is to know it by itself: `inverse` and `overflowed` are float scalars of its own.
ty_status ty_unscale_gradients_there(ty_tensor* const* parameters, size_t count, ty_tensor* inverse,
                                     ty_tensor* overflowed);
// What torch.amp.GradScaler does after a step: `scale` is a float scalar, `good_steps` one of 32 bits.
ty_status ty_update_scale(ty_tensor* scale, ty_tensor* good_steps, ty_tensor* overflowed, double growth, double backoff,
                          int64_t interval);
// Moves each target towards its source by the share `weight` of their difference.
ty_status ty_lerp(ty_tensor* const* targets, ty_tensor* const* sources, size_t count, double weight);

#ifdef __cplusplus
}
#endif
