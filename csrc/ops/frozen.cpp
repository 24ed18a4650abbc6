#include "ops/frozen.h"

#include "cpu/dispatch/isa.h"

namespace lenet_ext {

FrozenModel::FrozenModel(std::string program, DType dtype, Tensors parameters,
                         std::optional<Tensor> normalization)
    : program_(std::move(program)),
      dtype_(dtype),
      parameters_(std::move(parameters)),
      normalization_(std::move(normalization)) {
  constexpr const char* kOp = "freeze";
  for (const Tensor& parameter : parameters_) {
    if (!is_on_cpu(parameter) || !parameter.is_contiguous() ||
        parameter.scalar_type() != compute_type(dtype_)) {
      fail(kOp, ": parameters must be contiguous, on the CPU and of the compute type");
    }
  }
  if (normalization_ && (!is_on_cpu(*normalization_) || !normalization_->is_contiguous() ||
                         normalization_->scalar_type() != ScalarType::Float)) {
    fail(kOp, ": normalization must be contiguous, on the CPU and float32");
  }
}

std::shared_ptr<const SizedFrozen> FrozenModel::find(Sizes image) const {
  for (const auto& one : sized_) {
    if (std::ranges::equal(one->image_sizes, image)) return one;
  }
  return nullptr;
}

std::shared_ptr<const SizedFrozen> FrozenModel::add(Sizes image) {
  SizeList images{1};
  images.insert(images.end(), image.begin(), image.end());
  std::vector<Sizes> sizes;
  std::vector<const void*> pointers;
  for (const Tensor& parameter : parameters_) {
    sizes.push_back(sizes_of(parameter));
    pointers.push_back(parameter.const_data_ptr());
  }
  NetworkPtr network = known_network(images, sizes, program_, /*folds=*/true);
  const char* const op = network->name.c_str();
  if (network->has_dropout()) fail(op, ": a network that draws random numbers cannot be frozen");
  if (normalization_) {
    check_sizes(op, "normalization", *normalization_, std::array{int64_t{2}, network->image_sizes[0]});
  }
  std::unique_ptr<const FrozenPass> pass = cpu::kernels()[dtype_].network.freeze(network, pointers.data());
  SizedFrozen made{{image.begin(), image.end()}, std::move(network), std::move(pass)};
  if (sized_.size() == kMostSizes) sized_.erase(sized_.begin());
  return sized_.emplace_back(std::make_shared<const SizedFrozen>(std::move(made)));
}

void FrozenModel::check(const SizedFrozen& sized, int64_t batch) const {
  check_batch(*sized.network, batch);
  check_statistics(*sized.network, batch);
}

void FrozenModel::run(const SizedFrozen& sized, int64_t batch, const void* images,
                      void* const* outputs) const {
  if (batch == 0) return;
  const float* const scale =
      normalization_ ? static_cast<const float*>(normalization_->const_data_ptr()) : nullptr;
  sized.pass->run({.data = images,
                   .count = batch,
                   .order = nullptr,
                   .available = batch,
                   .bytes = scale != nullptr,
                   .scale = scale,
                   .shift = scale == nullptr ? nullptr : scale + sized.network->image_sizes[0]},
                  outputs);
}

}  // namespace lenet_ext
