// The end of a process by a thread that nobody here has started: NCCL's watchdog throws out of its thread what it finds wrong
// with the other ranks, and C++ then aborts the process, whose exit code would tell nothing.

#include <unistd.h>

#include <cstdlib>
#include <exception>

#include <c10/util/Exception.h>

#include "shim.h"

namespace {

ty_last_words last_words = nullptr;
std::terminate_handler before = nullptr;

[[noreturn]] void end() {
  if (std::exception_ptr thrown = std::current_exception()) {
    try {
      std::rethrow_exception(thrown);
    } catch (const c10::DistError& error) {
      // Nothing is torn down: other threads may wait for a GPU that never answers.
      _exit(last_words(error.what_without_backtrace()));
    } catch (...) {
      // Not of other ranks.
    }
  }
  if (before != nullptr) before();
  std::abort();
}

} // namespace

void ty_on_lost_peer(ty_last_words tell) {
  last_words = tell;
  before = std::set_terminate(end);
}
