// The tensors that the operators of the fused engine have in common, checked.
#pragma once

#include <algorithm>
#include <array>
#include <optional>

#include "engine/passes.h"
#include "ops/backend.h"

namespace lenet_ext {

using Tensors = std::vector<Tensor>;

// The tensors of a call, checked and dense, kept alive while the kernels use them.
struct NetTensors {
  DType dtype;
  NetShape shape;
  Tensor images;
  std::optional<Tensor> normalization;
  Tensors parameters;
  std::vector<void*> pointers;  // to the parameters

  NetImages net_images() const {
    const float* scale = normalization ? static_cast<const float*>(normalization->const_data_ptr()) : nullptr;
    const bool bytes = images.scalar_type() == ScalarType::Byte;
    return {images.const_data_ptr(),
            nullptr,
            shape.batch,
            bytes,
            scale,
            bytes ? scale + shape.image_sizes[0] : nullptr};
  }
};

// net_shape, which a thread remembers for its last few calls: decoding takes longer than a small stage.
inline const NetShape& known_net_shape(const char* op, Sizes images, const std::vector<Sizes>& parameters,
                                       const SizeList& program) {
  struct Call {
    SizeList images, program;
    std::vector<SizeList> parameters;
    NetShape shape;
  };
  constexpr size_t kKept = 8;
  thread_local std::array<Call, kKept> calls;
  thread_local size_t next = 0;
  for (const Call& call : calls) {
    if (!call.program.empty() && call.program == program && std::ranges::equal(call.images, images) &&
        std::ranges::equal(call.parameters, parameters, std::ranges::equal)) {
      return call.shape;
    }
  }
  next = (next + 1) % kKept;
  Call& call = calls[next];
  call.program.clear();  // until the shape is known to be right
  call.shape = net_shape(op, images, parameters, program);
  call.images.assign(images.begin(), images.end());
  call.parameters.clear();
  for (const Sizes& sizes : parameters) call.parameters.emplace_back(sizes.begin(), sizes.end());
  call.program = program;
  return call.shape;
}

inline NetTensors check_net(const char* op, const Tensor& images, const Tensors& parameters,
                            const SizeList& program, const std::optional<Tensor>& normalization) {
  const bool bytes = images.scalar_type() == ScalarType::Byte;
  if (bytes != normalization.has_value()) {
    fail(op, bytes ? ": uint8 images need normalization" : ": normalization is for uint8 images only");
  }
  if (bytes && parameters.empty()) fail(op, ": uint8 images need a stage with parameters");
  NetTensors t{bytes ? dtype_of(op, "parameters", parameters[0]) : dtype_of(op, "input", images),
               {},
               dense(images),
               std::nullopt,
               {},
               {}};
  std::vector<Sizes> parameter_sizes;
  parameter_sizes.reserve(parameters.size());
  t.parameters.reserve(parameters.size()), t.pointers.reserve(parameters.size());
  for (const Tensor& parameter : parameters) {
    if (parameter.scalar_type() != (bytes ? parameters[0] : images).scalar_type()) {
      fail(op, ": all parameters must be of one dtype, that of the input unless it is uint8; got ",
           torch::headeronly::toString(parameter.scalar_type()));
    }
    check_same_device(op, bytes ? "images" : "input", images, "a parameter", parameter);
    parameter_sizes.push_back(sizes_of(parameter));
    t.parameters.push_back(dense(parameter));
    t.pointers.push_back(t.parameters.back().data_ptr());
  }
  t.shape = known_net_shape(op, sizes_of(images), parameter_sizes, program);
  if (bytes) {
    if (normalization->scalar_type() != ScalarType::Float) fail(op, ": normalization must be float32");
    check_same_device(op, "images", images, "normalization", *normalization);
    check_sizes(op, "normalization", *normalization, std::array{int64_t{2}, t.shape.image_sizes[0]});
    t.normalization = dense(*normalization);
  }
  return t;
}

}  // namespace lenet_ext
