// Rendezvous and collectives: a store, a process group on it, and a backend by Gloo or, from the plug-in, by NCCL.

#include <cstring>
#include <mutex>

#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "edge.h"
#include "group.h"
#include "plugin.h"

// Gloo's own headers are replaced by declarations: this is the layout that libtorch 2.11.0 was built with.
static_assert(sizeof(c10d::ProcessGroupGloo) == 488, "libtorch is another version than the shim was written for");

namespace {

thread_local std::string last_error;

using Backend = c10::intrusive_ptr<c10d::Backend>;
using Started = c10::intrusive_ptr<c10d::Work>;
using Type = c10d::ProcessGroup::BackendType;
using std::chrono::milliseconds;

void give(const void* bytes, size_t size, uint8_t** value, size_t* length) {
  *value = static_cast<uint8_t*>(malloc(size + 1));
  if (*value == nullptr) throw std::bad_alloc();
  memcpy(*value, bytes, size);
  *length = size;
}

} // namespace

ty_status trainyard::failed(ty_status status, std::string text) {
  last_error = std::move(text);
  return status;
}

using trainyard::edge;
using trainyard::plugin;

extern "C" {

const char* ty_error_text(void) {
  return last_error.c_str();
}

void ty_log_level(int severity) {
  FLAGS_caffe2_log_level = severity;
}

ty_status ty_group_open(const char* host, uint16_t port, bool is_host, int rank, int size, int64_t timeout_ms,
                        ty_group** out) {
  return edge([&] {
    if (size == 1) {
      *out = new ty_group{c10::make_intrusive<c10d::HashStore>(), {}, {}, rank, size};
      return;
    }
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_host;
    options.numWorkers = size;
    // Ranks are counted by the caller, who can say which are missing.
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    *out = new ty_group{c10::make_intrusive<c10d::TCPStore>(host, options), {}, {}, rank, size};
  });
}

ty_status ty_group_prefix(ty_group* group, const char* prefix) {
  return edge([&] { group->store = c10::make_intrusive<c10d::PrefixStore>(prefix, group->store); });
}

ty_status ty_store_set(ty_group* group, const char* key, const uint8_t* value, size_t length) {
  return edge([&] { group->store->set(key, std::vector<uint8_t>(value, value + length)); });
}

ty_status ty_store_get(ty_group* group, const char* key, int64_t timeout_ms, uint8_t** value, size_t* length) {
  return edge([&] {
    group->store->wait({key}, milliseconds(timeout_ms));
    auto found = group->store->get(key);
    give(found.data(), found.size(), value, length);
  });
}

ty_status ty_store_add(ty_group* group, const char* key, int64_t amount, int64_t* sum) {
  return edge([&] { *sum = group->store->add(key, amount); });
}

ty_status ty_store_has(ty_group* group, const char* key, bool* out) {
  return edge([&] { *out = group->store->check({key}); });
}

void ty_free_bytes(uint8_t* bytes) {
  free(bytes);
}

ty_status ty_group_connect_gloo(ty_group* group, const char* address, int64_t timeout_ms) {
  return edge([&] {
    using Gloo = trainyard::RecordedGloo;
    auto timeout = milliseconds(timeout_ms);
    c10::intrusive_ptr<Gloo::Options> options;
    if (*address == '\0') {
      options = Gloo::Options::create_default(timeout);
    } else {
      options = Gloo::Options::create(timeout);
      options->devices.push_back(Gloo::createDeviceForHostname(address));
    }
    auto processes = c10::make_intrusive<c10d::ProcessGroup>(group->store, group->rank, group->size);
    processes->setDefaultBackend(Type::GLOO);
    auto store = c10::make_intrusive<c10d::PrefixStore>("gloo/", group->store);
    auto gloo = c10::make_intrusive<Gloo>(store, group->rank, group->size, options);
    Backend backend = gloo;
    processes->setBackend(c10::DeviceType::CPU, Type::GLOO, backend);
    // Gloo also moves CUDA tensors, through host memory: for ranks that share one GPU, which NCCL refuses.
    if (plugin.nccl != nullptr) processes->setBackend(c10::DeviceType::CUDA, Type::GLOO, backend);
    group->gloo = std::move(gloo);
    group->processes = std::move(processes);
  });
}

ty_status ty_group_connect_nccl(ty_group* group, int index, int64_t timeout_ms) {
  return edge([&] {
    TORCH_CHECK(plugin.nccl != nullptr, "the CUDA plug-in is not loaded");
    auto processes = c10::make_intrusive<c10d::ProcessGroup>(group->store, group->rank, group->size);
    processes->setDefaultBackend(Type::NCCL);
    processes->setBoundDeviceId(at::Device(at::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)));
    c10::intrusive_ptr<c10d::Store> store = c10::make_intrusive<c10d::PrefixStore>("nccl/", group->store);
    Backend backend;
    group->device = index;
    plugin.nccl(&store, group->rank, group->size, index, timeout_ms, &backend);
    processes->setBackend(c10::DeviceType::CUDA, Type::NCCL, backend);
    group->processes = std::move(processes);
  });
}

ty_status ty_group_all_reduce_sum(ty_group* group, ty_tensor* tensor) {
  return edge([&] {
    std::vector<at::Tensor> one{*tensor};
    group->processes->allreduce(one)->wait();
  });
}

ty_status ty_group_broadcast(ty_group* group, ty_tensor* tensor, int root) {
  return edge([&] {
    std::vector<at::Tensor> one{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    group->processes->broadcast(one, options)->wait();
  });
}

ty_status ty_group_all_gather(ty_group* group, ty_tensor* out, ty_tensor* tensor) {
  return edge([&] {
    std::vector<std::vector<at::Tensor>> parts{out->unbind(0)};
    std::vector<at::Tensor> one{*tensor};
    group->processes->allgather(parts, one)->wait();
  });
}

ty_status ty_group_barrier(ty_group* group) {
  return edge([&] {
    // ProcessGroup::barrier assigns to a tensor that is one for the whole process, and ranks may be threads of one.
    static std::mutex one_at_a_time;
    Started started;
    {
      std::lock_guard<std::mutex> lock(one_at_a_time);
      started = group->processes->barrier();
    }
    started->wait();
  });
}

ty_status ty_group_flights(ty_group* group, uint8_t** text, size_t* length) {
  return edge([&] {
    std::string dump = group->gloo ? group->gloo->flights() : plugin.flights != nullptr ? plugin.flights(group->device) : "{}";
    give(dump.data(), dump.size(), text, length);
  });
}

ty_status ty_group_settle(ty_group* group) {
  return edge([&] {
    // Gloo's have ended when their calls return.
    if (!group->gloo) group->processes->waitForPendingWorks();
  });
}

ty_status ty_group_abort(ty_group* group) {
  return edge([&] { group->processes->abort(); });
}

ty_status ty_group_free(ty_group* group) {
  return edge([&] { delete group; });
}

} // extern "C"
