// A frozen network: a program with parameters of its own, ready to run on images of a few sizes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ops/network_tensors.h"

namespace lenet_ext {

// For images of one size.
struct SizedFrozen {
  SizeList image_sizes;
  NetworkPtr network;
  std::unique_ptr<const FrozenPass> pass;
};

class FrozenModel {
 public:
  // dtype: of images and outputs. parameters: on the CPU, dense, in the compute type of `dtype`; they must stay
  // as they are. normalization: float32 (2, C), for uint8 images; or none.
  FrozenModel(std::string program, DType dtype, Tensors parameters, std::optional<Tensor> normalization);

  DType dtype() const { return dtype_; }
  bool takes_bytes() const { return normalization_.has_value(); }
  ScalarType image_type() const { return takes_bytes() ? ScalarType::Byte : kScalarTypes[dtype_]; }

  // Null where images of this size, without the batch, were not seen before, or too long ago. Neither this nor
  // add() may be called by two threads at once.
  std::shared_ptr<const SizedFrozen> find(Sizes image) const;
  // Throws where the network does not take them.
  std::shared_ptr<const SizedFrozen> add(Sizes image);

  // batch: images, which are dense. outputs: by Network::outputs, dense. May be called by several threads at
  // once. Before it: check(), which throws.
  void check(const SizedFrozen& sized, int64_t batch) const;
  void run(const SizedFrozen& sized, int64_t batch, const void* images, void* const* outputs) const;

 private:
  static constexpr size_t kMostSizes = 16;

  const std::string program_;
  const DType dtype_;
  const Tensors parameters_;
  const std::optional<Tensor> normalization_;
  std::vector<std::shared_ptr<const SizedFrozen>> sized_;  // the oldest first
};

}  // namespace lenet_ext
