// Work of a GPU that is recorded once and started as a whole from then on, by the CUDA plug-in.

#include <memory>

#include <c10/core/impl/VirtualGuardImpl.h>

#include "edge.h"
#include "plugin.h"

using trainyard::edge;
using trainyard::plugin;

struct ty_graph {
  std::unique_ptr<trainyard::Recording> recording;
};

extern "C" {

ty_status ty_compute_beside(int device_type, int index) {
  return edge([&] {
    auto type = static_cast<c10::DeviceType>(device_type);
    c10::Device device(type, static_cast<c10::DeviceIndex>(index));
    c10::impl::VirtualGuardImpl guard(type);
    // What was begun on the stream before is done when the other one begins.
    guard.synchronizeDevice(device.index());
    guard.exchangeStream(guard.getStreamFromGlobalPool(device));
  });
}

ty_status ty_graph_room(int index, int64_t* available, int64_t* step) {
  return edge([&] {
    TORCH_CHECK(plugin.room != nullptr, "the CUDA plug-in is not loaded");
    plugin.room(index, available, step);
  });
}

ty_status ty_graph_begin(int index, ty_graph** out) {
  return edge([&] {
    TORCH_CHECK(plugin.record != nullptr, "the CUDA plug-in is not loaded");
    auto graph = std::make_unique<ty_graph>();
    plugin.record(index, &graph->recording);
    *out = graph.release();
  });
}

ty_status ty_graph_end(ty_graph* graph) {
  return edge([&] { graph->recording->end(); });
}

ty_status ty_graph_replay(ty_graph* graph) {
  return edge([&] { graph->recording->replay(); });
}

ty_status ty_graph_free(ty_graph* graph) {
  return edge([&] { delete graph; });
}

} // extern "C"
