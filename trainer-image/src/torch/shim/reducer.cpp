// DistributedDataParallel's machinery: the parameter check, the first broadcast, buckets, reducer and logger.

#include <atomic>
#include <cstring>

#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include "edge.h"
#include "group.h"

namespace {

// Gradients travel as numbers of another kind: the `_compress_hook` of torch/distributed/algorithms/ddp_comm_hooks/
// default_hooks.py, which is fp16_compress_hook and bf16_compress_hook. Here because
// libtorch's C++ has the first alone, and counts nothing.
class Travel : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  Travel(c10::intrusive_ptr<c10d::ProcessGroup> processes, at::ScalarType kind, std::shared_ptr<std::atomic<int64_t>> bytes)
      : CppCommHookInterface(std::move(processes)), kind_(kind), bytes_(std::move(bytes)) {}

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    at::NoGradGuard no_grad;
    auto buffer = bucket.getBufferRef();
    // Divided first: the sum of 16-bit numbers could overflow.
    std::vector<at::Tensor> travels{buffer.to(kind_).div_(state_->getSize())};
    bytes_->fetch_add(static_cast<int64_t>(travels[0].nbytes()), std::memory_order_relaxed);
    auto arrives = state_->allreduce(travels)->getFuture();
    auto unpack = [buffer](c10::ivalue::Future& arrived) {
      at::NoGradGuard no_grad;
      buffer.copy_(arrived.value().toTensorVector()[0]);
      return c10::IValue(buffer);
    };
    return arrives->then(std::move(unpack), arrives->elementType());
  }

 private:
  at::ScalarType kind_;
  std::shared_ptr<std::atomic<int64_t>> bytes_;
};

} // namespace

struct ty_reducer {
  // The logger refers to the reducer: it is declared later, so it goes first.
  std::shared_ptr<c10d::Reducer> reducer;
  std::shared_ptr<c10d::Logger> logger;
  // By the hook; it has none where gradients travel as they are.
  std::shared_ptr<std::atomic<int64_t>> bytes;
};

using trainyard::edge;
using trainyard::tensors;

extern "C" {

ty_status ty_verify_parameters(ty_group* group, ty_tensor* const* parameters, size_t count) {
  return edge([&] { c10d::verify_params_across_processes(group->processes, tensors(parameters, count), {}); });
}

ty_status ty_broadcast_coalesced(ty_group* group, ty_tensor* const* all, size_t count, size_t chunk_bytes, int root) {
  return edge([&] {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> detached;
    detached.reserve(count);
    for (size_t i = 0; i < count; i++) detached.push_back(all[i]->detach());
    c10d::broadcast_coalesced(group->processes, detached, chunk_bytes, root);
  });
}

ty_status ty_assign_buckets(ty_tensor* const* all, size_t count, const size_t* limits, size_t limit_count,
                            size_t* bucket_of, size_t* buckets) {
  return edge([&] {
    auto assigned = std::get<0>(c10d::compute_bucket_assignment_by_size(
        tensors(all, count), std::vector<size_t>(limits, limits + limit_count), std::vector<bool>(count, false)));
    *buckets = assigned.size();
    for (size_t bucket = 0; bucket < assigned.size(); bucket++) {
      for (size_t index : assigned[bucket]) bucket_of[index] = bucket;
    }
  });
}

ty_status ty_reducer_new(ty_group* group, ty_tensor* const* parameters, const char* const* names, size_t count,
                         const size_t* members, const size_t* starts, size_t buckets, ty_reducer_options options,
                         ty_reducer** out) {
  return edge([&] {
    std::vector<std::vector<size_t>> indices;
    for (size_t bucket = 0; bucket < buckets; bucket++) {
      indices.emplace_back(members + starts[bucket], members + starts[bucket + 1]);
    }
    std::unordered_map<size_t, std::string> named;
    for (size_t i = 0; i < count; i++) named.emplace(i, names[i]);
    auto reducer = std::make_shared<c10d::Reducer>(
        tensors(parameters, count), std::move(indices), group->processes, std::vector<bool>(count, false),
        options.bucket_bytes, options.find_unused, options.gradient_as_bucket_view, std::move(named),
        options.first_bucket_bytes, /* skip_all_reduce_unused_params */ false, /* use_python_reducer */ false,
        std::vector<int64_t>{});
    auto logger = std::make_shared<c10d::Logger>(reducer);
    reducer->set_logger(logger);
    logger->set_construction_data_and_log("Trainyard", {}, -1, options.broadcast_buffers, false, false);
    auto bytes = std::make_shared<std::atomic<int64_t>>(0);
    if (options.compression >= 0) {
      auto kind = static_cast<at::ScalarType>(options.compression);
      reducer->register_comm_hook(std::make_unique<Travel>(group->processes, kind, bytes));
    }
    *out = new ty_reducer{std::move(reducer), std::move(logger), std::move(bytes)};
  });
}

ty_status ty_reducer_before_forward(ty_reducer* it) {
  return edge([&] {
    it->logger->set_runtime_stats_and_log();
    it->reducer->prepare_for_forward();
  });
}

ty_status ty_reducer_rebuild_buckets(ty_reducer* it, bool* rebuilt) {
  return edge([&] { *rebuilt = it->reducer->rebuild_buckets(); });
}

ty_status ty_reducer_before_backward(ty_reducer* it, ty_tensor* const* outputs, size_t count) {
  return edge([&] { it->reducer->prepare_for_backward(tensors(outputs, count)); });
}

ty_status ty_reducer_sample_rate(ty_reducer* it, int rate) {
  return edge([&] { it->reducer->set_ddp_runtime_logging_sample_rate(rate); });
}

ty_status ty_reducer_figures(ty_reducer* it, uint8_t** text, size_t* length) {
  return edge([&] {
    std::string lines;
    for (const auto& [key, value] : it->logger->get_ddp_logging_data().ints_map) {
      lines += key + '\t' + std::to_string(value) + '\n';
    }
    *text = static_cast<uint8_t*>(malloc(lines.size() + 1));
    if (*text == nullptr) throw std::bad_alloc();
    memcpy(*text, lines.data(), lines.size());
    *length = lines.size();
  });
}

ty_status ty_reducer_bytes(ty_reducer* it, int64_t* bytes) {
  return edge([&] { *bytes = it->bytes->load(std::memory_order_relaxed); });
}

ty_status ty_reducer_free(ty_reducer* it) {
  return edge([&] { delete it; });
}

} // extern "C"
