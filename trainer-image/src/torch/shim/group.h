// What a `ty_group` is, for the files of the shim that use one.
#pragma once

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "gloo_flights.h"

struct ty_group {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::ProcessGroup> processes;
  // The backend of `processes`, if it is Gloo.
  c10::intrusive_ptr<trainyard::RecordedGloo> gloo;
  int rank;
  int size;
  // Index of this rank's GPU, if they are connected by NCCL.
  int device = 0;
};
