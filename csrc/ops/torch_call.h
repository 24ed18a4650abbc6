// Calls of torch, whose errors keep torch's reason.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "shapes.h"

// What the last call on this thread failed of. Torch has it since version 2.13.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace lenet_ext {

// action: for example "allocate a tensor".
[[noreturn]] inline void fail_in_torch(const char* action) {
  if (torch_exception_get_what_without_backtrace == nullptr) fail("lenet_ext: torch could not ", action);
  fail("lenet_ext: torch could not ", action, ": ", torch_exception_get_what_without_backtrace());
}

// For functions of its C interface.
inline void check_torch(const char* action, AOTITorchError error) {
  if (error != AOTI_TORCH_SUCCESS) fail_in_torch(action);
}

// For functions that throw, but only name the call that failed.
template <class Call>
auto call_torch(const char* action, const Call& call) {
  try {
    return call();
  } catch (const std::runtime_error&) {
    fail_in_torch(action);
  }
}

}  // namespace lenet_ext
