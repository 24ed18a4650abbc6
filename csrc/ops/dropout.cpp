#include "ops/backend.h"
#include "ops/registration.h"
#include "ops/tensor.h"

namespace lenet_ext {
namespace {

// By what the engine's layer `layer` multiplies a value of the sizes of `like`, (N, ...), under this seed: 0
// or 1 / (1 - p). seed: int64 (1,), on the CPU.
Tensor dropout_mask(const Tensor& like, const Tensor& seed, int64_t layer, bool per_channel, double p) {
  const char* const op = "dropout_mask";
  const DType dtype = dtype_of(op, "like", like);
  const Backend kernels(op, like);
  if (kernels[dtype].dropout_mask == nullptr) fail(op, ": CUDA has no kernel for dropout");
  if (seed.scalar_type() != ScalarType::Long || !is_on_cpu(seed))
    fail(op, ": seed must be int64, on the CPU");
  check_sizes(op, "seed", seed, std::array{int64_t{1}});
  const Sizes sizes = sizes_of(like);
  if (sizes.size() < 2) fail(op, ": like must have 2 dimensions at least, got ", to_string(sizes));
  if (!(p >= 0 && p <= 1)) fail(op, ": p must be in [0, 1], got ", p);
  Tensor mask = empty(sizes, like);
  const int64_t size = element_count(op, sizes.subspan(1)), channels = per_channel ? sizes[1] : size;
  if (mask.numel() > 0) {
    const auto number = static_cast<uint64_t>(*static_cast<const int64_t*>(seed.const_data_ptr()));
    kernels[dtype].dropout_mask(sizes[0], channels, size / channels, p, static_cast<uint32_t>(layer), number,
                                mask.mutable_data_ptr());
  }
  return mask;
}

const Registration registration = {
    {"dropout_mask(Tensor like, Tensor seed, int layer, bool per_channel, float p) -> Tensor",
     TORCH_BOX(&dropout_mask)},
};

}  // namespace
}  // namespace lenet_ext
