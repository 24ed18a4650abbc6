// A string among the arguments of an operator.
#pragma once

#include <torch/csrc/stable/library.h>

#include <memory>
#include <string_view>

#include "ops/torch_call.h"

namespace lenet_ext {

// In torch's memory, until the operator returns. torch's own conversion to std::string copies the characters at
// every call and never frees the copy (2.13).
class Text {
 public:
  explicit Text(StringHandle handle) : handle_(handle) {}

  operator std::string_view() const {
    size_t length;
    const char* characters;
    check_torch("read a string", torch_string_length(handle_.get(), &length));
    check_torch("read a string", torch_string_c_str(handle_.get(), &characters));
    return {characters, length};
  }

 private:
  struct Delete {
    void operator()(StringHandle handle) const { torch_delete_string(handle); }
  };
  std::unique_ptr<std::remove_pointer_t<StringHandle>, Delete> handle_;
};

}  // namespace lenet_ext

namespace torch::stable::detail {

template <>
struct ToImpl<lenet_ext::Text> {
  static lenet_ext::Text call(StableIValue value, uint64_t, bool) {
    return lenet_ext::Text(torch::stable::detail::to<StringHandle>(value));
  }
};

}  // namespace torch::stable::detail
