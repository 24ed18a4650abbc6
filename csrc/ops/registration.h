// Makes operators known to torch: each once with its schema, and implemented for tensors of the CPU and of
// CUDA.
#pragma once

#include <torch/csrc/stable/library.h>

#include <initializer_list>
#include <string>

// 0 in a library whose implementations are to take the place of those that are loaded already (tests/cuda).
#ifndef LENET_EXT_DEFINES_OPERATORS
#define LENET_EXT_DEFINES_OPERATORS 1
#endif

namespace lenet_ext {

struct Operator {
  // Sizes are numbers one by one: torch needs much longer to hand over a list.
  const char* schema;
  void (*call)(StableIValue* stack, uint64_t inputs, uint64_t outputs);  // by TORCH_BOX
};

// A static object of a source file, which lives as long as the library.
class Registration {
 public:
  Registration(std::initializer_list<Operator> operators)
      : definitions_(Library::Kind::FRAGMENT, kNamespace, nullptr, kNamespace, 0),
        cpu_(Library::Kind::IMPL, kNamespace, "CPU", kNamespace, 0),
        cuda_(Library::Kind::IMPL, kNamespace, "CUDA", kNamespace, 0) {
    for (const Operator& op : operators) {
      const std::string schema = op.schema, name = schema.substr(0, schema.find('('));
      if (LENET_EXT_DEFINES_OPERATORS) definitions_.def(op.schema);
      cpu_.impl(name.c_str(), op.call);
      cuda_.impl(name.c_str(), op.call);
    }
  }

 private:
  using Library = torch::stable::detail::StableLibrary;
  static constexpr const char* kNamespace = "lenet_ext";

  Library definitions_, cpu_, cuda_;
};

}  // namespace lenet_ext
