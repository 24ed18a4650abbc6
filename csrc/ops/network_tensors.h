// The tensors that the operators of the fused engine have in common, checked.
#pragma once

#include <algorithm>
#include <array>
#include <optional>

#include "cpu/runtime/recent.h"
#include "engine/network_builder.h"
#include "engine/passes.h"
#include "ops/backend.h"
#include "ops/text.h"

namespace lenet_ext {

using Tensors = std::vector<Tensor>;

// The network that a program describes, which a thread remembers for its last few calls: to read it takes
// longer than a small stage. folds: see build_network.
inline NetworkPtr known_network(Sizes images, const std::vector<Sizes>& parameters, std::string_view program,
                                bool folds) {
  struct Known {
    SizeList images;  // without the batch
    std::string program;
    bool folds;
    std::vector<SizeList> parameters;
    NetworkPtr network;
  };
  const Sizes image = images.subspan(images.empty() ? 0 : 1);
  thread_local Recent<Known> recent;
  const auto known = recent.find_or_make(
      [&](const Known& one) {
        return one.program == program && one.folds == folds && std::ranges::equal(one.images, image) &&
               std::ranges::equal(one.parameters, parameters, std::ranges::equal);
      },
      [&] {
        const Description description = DescriptionReader(program).read();
        Known one{{image.begin(), image.end()}, std::string(program), folds, {}, {}};
        for (const Sizes& sizes : parameters) one.parameters.emplace_back(sizes.begin(), sizes.end());
        one.network = std::make_shared<Network>(build_network(description, images, parameters, folds));
        return std::make_shared<Known>(std::move(one));
      });
  return known->network;
}

// As in torch the statistics of a batch norm are of more than one value, or of none. images: of the smallest
// batch.
inline void check_statistics(const Network& network, int64_t images) {
  for (const Stage& stage : network.stages) {
    const int64_t of_image = stage.channels() == 0 ? 0 : stage.input_size / stage.channels();
    if (stage.needs_statistics() && images * of_image == 1) {
      fail(stage.name, ": batch_norm needs more than one value of each channel in training mode, got 1");
    }
  }
}

// All values of the batch must be addressable.
inline void check_batch(const Network& network, int64_t images) {
  for (const Stage& stage : network.stages) {
    element_count(network.name.c_str(), std::array{std::max<int64_t>(images, 1), stage.core_size});
  }
}

// The tensors of a call, checked and dense, kept alive while the kernels use them. A step of a small
// network takes microseconds, so that each parameter is looked at as little as can be.
struct NetworkTensors {
  // With normalization images are uint8, else of the dtype of the parameters, which must outlive this. keeps:
  // whether anything is kept for backward. members: of an ensemble, whose parameters are stacked, (members, ...).
  NetworkTensors(const Tensor& all_images, const Tensors& all_parameters, std::string_view program,
                 const std::optional<Tensor>& wanted_normalization, bool keeps = true,
                 std::optional<int64_t> members = std::nullopt)
      : images(all_images), parameters(all_parameters) {
    std::vector<Sizes> parameter_sizes;
    parameter_sizes.reserve(all_parameters.size());
    for (const Tensor& parameter : all_parameters) {
      Sizes sizes = sizes_of(parameter);
      if (members) {
        if (sizes.empty() || sizes[0] != *members) {
          fail("ensemble: a parameter must be (", *members, ", ...), one for each member, got ",
               to_string(sizes));
        }
        sizes = sizes.subspan(1);
      }
      parameter_sizes.push_back(sizes);
    }
    network = known_network(sizes_of(images), parameter_sizes, program, !keeps && is_on_cpu(images));
    batch = sizes_of(images)[0];
    check_batch(*network, batch);
    const bool bytes = wanted_normalization.has_value();
    if (bytes && images.scalar_type() != ScalarType::Byte) {
      fail(op(), ": input must be uint8, since it is to be normalized, got ",
           torch::headeronly::toString(images.scalar_type()));
    }
    if (bytes && all_parameters.empty()) fail(op(), ": uint8 images need a layer with parameters");
    dtype = bytes ? dtype_of(op(), "parameters", parameters[0]) : dtype_of(op(), "input", images);
    check_parameters(bytes ? parameters[0] : images);
    if (bytes) check_normalization(*wanted_normalization);
    images = dense(images);
    if (bytes) normalization = dense(*wanted_normalization);
    pointers.reserve(parameters.size());
    for (const Tensor& parameter : parameters) {
      const bool is_dense = parameter.is_contiguous();
      pointers.push_back((is_dense ? parameter : copies_.emplace_back(dense(parameter))).data_ptr());
    }
  }

  NetworkTensors(const Tensor& all_images, Tensors&&, std::string_view program,
                 const std::optional<Tensor>& wanted_normalization, bool keeps = true,
                 std::optional<int64_t> members = std::nullopt) = delete;  // they must live on

  const char* op() const { return network->name.c_str(); }
  SizeList with_batch(SizeList sizes) const {
    sizes.insert(sizes.begin(), batch);
    return sizes;
  }

  Images all_images() const {
    const float* scale = normalization ? static_cast<const float*>(normalization->const_data_ptr()) : nullptr;
    return {.data = images.const_data_ptr(),
            .count = batch,
            .order = nullptr,
            .available = batch,
            .bytes = normalization.has_value(),
            .scale = scale,
            .shift = scale == nullptr ? nullptr : scale + network->image_sizes[0]};
  }

  void check_statistics(int64_t images) const { lenet_ext::check_statistics(*network, images); }

  NetworkPtr network;
  int64_t batch;
  DType dtype;
  Tensor images;
  std::optional<Tensor> normalization;
  const Tensors& parameters;    // as they are given
  std::vector<void*> pointers;  // to the parameters; in an ensemble to those of the first member

  // To the parameters of a member of an ensemble.
  std::vector<void*> pointers_of(int64_t member) const {
    std::vector<void*> own(pointers.size());
    const int64_t bytes = parameters.empty() ? 0 : parameters[0].element_size();
    for (size_t i = 0; i < own.size(); ++i) {
      own[i] = static_cast<char*>(pointers[i]) + member * network->parameter_sizes[i] * bytes;
    }
    return own;
  }

 private:
  // like: has the dtype that they must have.
  void check_parameters(const Tensor& like) const {
    const int32_t wanted = dtype_number(like), device = images.get_device_index();
    for (const Tensor& parameter : parameters) {
      if (dtype_number(parameter) != wanted) {
        fail(op(), ": all parameters must be of one dtype, that of the input unless it is uint8, ",
             torch::headeronly::toString(kScalarTypes[dtype]), "; got ",
             torch::headeronly::toString(parameter.scalar_type()));
      }
      if (parameter.get_device_index() != device) {
        check_same_device(op(), "input", images, "a parameter", parameter);
      }
    }
  }

  void check_normalization(const Tensor& tensor) const {
    if (tensor.scalar_type() != ScalarType::Float) fail(op(), ": normalization must be float32");
    check_same_device(op(), "input", images, "normalization", tensor);
    check_sizes(op(), "normalization", tensor, std::array{int64_t{2}, network->image_sizes[0]});
  }

  Tensors copies_;  // of parameters that are not dense
};

inline ScalarType compute_type(DType dtype) {
  return dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

inline Tensor empty_of(Sizes sizes, ScalarType type, const Tensor& like) {
  const auto dtype = static_cast<int32_t>(torch::stable::detail::from(type));
  return empty(dtype, sizes, like, Format::kContiguous);
}

// The seeds of passes, of these sizes, on the host; null where the network draws nothing.
inline const int64_t* seeds_of(const NetworkTensors& t, const std::optional<Tensor>& seeds, Sizes sizes) {
  if (!t.network->has_dropout()) return nullptr;
  if (!seeds) fail(t.op(), ": the network has dropout and needs a seed");
  if (seeds->scalar_type() != ScalarType::Long || !is_on_cpu(*seeds) || !seeds->is_contiguous()) {
    fail(t.op(), ": seeds must be int64, contiguous, on the CPU");
  }
  check_sizes(t.op(), "seeds", *seeds, sizes);
  return static_cast<const int64_t*>(seeds->const_data_ptr());
}

}  // namespace lenet_ext
