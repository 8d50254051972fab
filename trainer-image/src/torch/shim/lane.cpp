// Copies that run beside what a GPU computes: on a stream of their own, through pinned memory, with an event for who waits.
// By c10's interface to any device: nothing of CUDA is named or linked here. On a CPU nothing runs beside, and what is
// copied is there at once.
//
// An event that is recorded, waited for or freed leaves its thread with the device that it had before, and opens that one if nobody
// has: GPU 0 for a thread that has chosen none. Hence the guards, which go back to a device only if it is open.

#include <memory>
#include <optional>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "edge.h"

using trainyard::edge;
using trainyard::tensors;

struct ty_lane {
  // Without one, nothing runs beside.
  std::optional<c10::Stream> stream;
};

struct ty_arrival {
  // Without one, it is there.
  std::optional<c10::Event> event;
};

namespace {

// Pinned memory is taken in pieces of a power of two, as libtorch's allocator rounds them up and keeps them for the next time.
constexpr int64_t PIECE = int64_t{64} << 20;
// Where tensors begin in a piece: a multiple of what any kind needs, and of what copies like.
constexpr int64_t ALIGNMENT = 256;

c10::Stream computing(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

// Pinned memory for tensors like `sources`, each contiguous in the usual order of dimensions.
std::vector<at::Tensor> pinned_like(const std::vector<at::Tensor>& sources) {
  std::vector<at::Tensor> made(sources.size());
  auto room = [](const at::Tensor& tensor) {
    int64_t bytes = tensor.numel() * tensor.element_size();
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  };
  for (size_t first = 0; first < sources.size();) {
    int64_t bytes = room(sources[first]);
    size_t end = first + 1;
    while (end < sources.size() && bytes + room(sources[end]) <= PIECE) bytes += room(sources[end++]);
    auto piece = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    int64_t offset = 0;
    for (; first < end; first++) {
      const auto& source = sources[first];
      auto part = piece.narrow(0, offset, source.numel() * source.element_size());
      made[first] = part.view(source.scalar_type()).view(source.sizes());
      offset += room(source);
    }
  }
  return made;
}

// Copies of tensors of one device beside them, by few kernels. They have their originals' memory format.
std::vector<at::Tensor> cloned(const std::vector<at::Tensor>& sources) {
  std::vector<at::Tensor> copies;
  for (const auto& source : sources) copies.push_back(at::empty_like(source));
  // A list of several kinds would be copied tensor by tensor.
  std::vector<bool> done(sources.size());
  for (size_t first = 0; first < sources.size(); first++) {
    if (done[first]) continue;
    std::vector<at::Tensor> from, to;
    for (size_t i = first; i < sources.size(); i++) {
      if (sources[i].scalar_type() != sources[first].scalar_type()) continue;
      from.push_back(sources[i]);
      to.push_back(copies[i]);
      done[i] = true;
    }
    at::_foreach_copy_(to, from);
  }
  return copies;
}

} // namespace

extern "C" {

ty_status ty_lane_new(int device_type, int index, ty_lane** out) {
  return edge([&] {
    auto type = static_cast<c10::DeviceType>(device_type);
    std::optional<c10::Stream> stream;
    if (type != c10::DeviceType::CPU) {
      c10::Device device(type, static_cast<c10::DeviceIndex>(index));
      stream = c10::impl::VirtualGuardImpl(type).getStreamFromGlobalPool(device);
    }
    *out = new ty_lane{stream};
  });
}

ty_status ty_lane_upload(ty_lane* lane, const void* data, const int64_t* sizes, size_t dimensions, int kind,
                         ty_tensor** out) {
  return edge([&] {
    at::NoGradGuard no_grad;
    auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(kind));
    auto source = at::from_blob(const_cast<void*>(data), at::IntArrayRef(sizes, dimensions), options);
    if (!lane->stream) {
      *out = new at::Tensor(source.clone());
      return;
    }
    auto stream = *lane->stream;
    c10::DeviceGuard on(stream.device());
    auto pinned = at::empty(source.sizes(), options.pinned_memory(true));
    pinned.copy_(source);
    c10::Event copied(stream.device_type());
    at::Tensor there;
    {
      c10::StreamGuard beside(stream);
      // libtorch gives neither piece of memory to others before the copy is done.
      there = pinned.to(stream.device(), pinned.scalar_type(), /* non_blocking */ true);
      copied.record(stream);
    }
    auto compute = computing(stream.device());
    copied.block(compute);
    there.record_stream(compute);
    *out = new at::Tensor(std::move(there));
  });
}

ty_status ty_lane_snapshot(ty_lane* lane, ty_tensor* const* sources, size_t count, ty_tensor** copies,
                           ty_arrival** arrival) {
  return edge([&] {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> there(count), on_device;
    std::vector<size_t> places;
    for (size_t i = 0; i < count; i++) {
      if (lane->stream && sources[i]->device() == lane->stream->device()) {
        on_device.push_back(sources[i]->detach());
        places.push_back(i);
      } else {
        there[i] = at::empty(sources[i]->sizes(), sources[i]->options().device(at::kCPU).requires_grad(false));
        there[i].copy_(*sources[i]);
      }
    }
    auto arrived = std::make_unique<ty_arrival>();
    if (!on_device.empty()) {
      auto stream = *lane->stream;
      c10::DeviceGuard on(stream.device());
      auto host = pinned_like(on_device);
      auto taken = cloned(on_device);
      c10::Event cloned_all(stream.device_type());
      cloned_all.record(computing(stream.device()));
      arrived->event.emplace(stream.device_type());
      c10::StreamGuard beside(stream);
      cloned_all.block(stream);
      for (size_t i = 0; i < taken.size(); i++) {
        host[i].copy_(taken[i], /* non_blocking */ true);
        // The clone's memory belongs to the stream that computes, which must not have it back before.
        taken[i].record_stream(stream);
        there[places[i]] = host[i];
      }
      arrived->event->record(stream);
    }
    for (size_t i = 0; i < count; i++) copies[i] = new at::Tensor(std::move(there[i]));
    *arrival = arrived.release();
  });
}

ty_status ty_lane_free(ty_lane* lane) {
  return edge([&] { delete lane; });
}

ty_status ty_read_back(ty_tensor* source, ty_tensor** out, ty_arrival** arrival) {
  return edge([&] {
    at::NoGradGuard no_grad;
    auto arrived = std::make_unique<ty_arrival>();
    at::Tensor host;
    if (source->is_cpu()) {
      host = source->detach();
    } else {
      c10::DeviceGuard on(source->device());
      host = at::empty(source->sizes(), source->options().device(at::kCPU).pinned_memory(true).requires_grad(false));
      host.copy_(*source, /* non_blocking */ true);
      arrived->event.emplace(source->device().type());
      arrived->event->record(computing(source->device()));
    }
    *out = new at::Tensor(std::move(host));
    *arrival = arrived.release();
  });
}

ty_status ty_arrival_wait(ty_arrival* arrival) {
  return edge([&] {
    if (!arrival->event) return;
    c10::DeviceGuard on(arrival->event->device());
    arrival->event->synchronize();
  });
}

ty_status ty_arrival_free(ty_arrival* arrival) {
  return edge([&] {
    c10::OptionalDeviceGuard on;
    if (arrival->event) on.reset_device(arrival->event->device());
    delete arrival;
  });
}

} // extern "C"
