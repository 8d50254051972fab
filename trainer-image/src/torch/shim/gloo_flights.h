// Gloo's backend with a list of the collectives that did not end well. libtorch's flight recorder has Gloo's collectives
// too, but marks one that failed as it marks one that ended.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

namespace trainyard {

class RecordedGloo : public c10d::ProcessGroupGloo {
 public:
  using c10d::ProcessGroupGloo::ProcessGroupGloo;
  using Started = c10::intrusive_ptr<c10d::Work>;
  using Tensors = std::vector<at::Tensor>;

  Started broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    return record("gloo:broadcast", tensors, ProcessGroupGloo::broadcast(tensors, options));
  }

  Started allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    return record("gloo:all_reduce", tensors, ProcessGroupGloo::allreduce(tensors, options));
  }

  Started allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    return record("gloo:all_gather", inputs, ProcessGroupGloo::allgather(outputs, inputs, options));
  }

  Started barrier(const c10d::BarrierOptions& options) override {
    return record("gloo:barrier", {}, ProcessGroupGloo::barrier(options));
  }

  // The list in the form of the flight recorder's JSON.
  std::string flights() const {
    std::lock_guard<std::mutex> lock(open_->mutex);
    std::string entries;
    for (const auto& [number, entry] : open_->entries) {
      entries += (entries.empty() ? "" : ",") + ("{\"collective_seq_id\":" + std::to_string(number)) + entry;
    }
    return "{\"entries\":[" + entries + "]}";
  }

 private:
  // Shared with callbacks, which may outlive the backend.
  struct Open {
    std::mutex mutex;
    uint64_t last = 0;
    std::map<uint64_t, std::string> entries;
  };

  Started record(const char* name, const Tensors& tensors, Started work) {
    std::string sizes;
    for (const auto& tensor : tensors) {
      std::string size;
      for (auto length : tensor.sizes()) size += (size.empty() ? "" : ",") + std::to_string(length);
      sizes += (sizes.empty() ? "[" : ",[") + size + "]";
    }
    uint64_t number;
    {
      std::lock_guard<std::mutex> lock(open_->mutex);
      number = ++open_->last;
      open_->entries[number] = std::string(",\"profiling_name\":\"") + name + "\",\"input_sizes\":[" + sizes +
                               "],\"state\":\"started\"}";
    }
    // Runs at once where it has ended already.
    work->getFuture()->addCallback([open = open_, number](c10::ivalue::Future& ended) {
      if (ended.hasError()) return;
      std::lock_guard<std::mutex> lock(open->mutex);
      open->entries.erase(number);
    });
    return work;
  }

  std::shared_ptr<Open> open_ = std::make_shared<Open>();
};

} // namespace trainyard
