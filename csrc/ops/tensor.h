// From torch's stable tensors to the plain values that the kernels take, and back.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "dtype.h"
#include "ops/fork.h"
#include "ops/strided_copy.h"
#include "ops/torch_call.h"
#include "shapes.h"

namespace lenet_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Those in the tensor itself: valid as long as it lives.
inline Sizes sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return {sizes.data(), sizes.size()};
}

inline Sizes strides_of(const Tensor& tensor) {
  const auto strides = tensor.strides();
  return {strides.data(), strides.size()};
}

inline constexpr ByDType<ScalarType> kScalarTypes = {
    {ScalarType::Float, ScalarType::Double, ScalarType::BFloat16, ScalarType::Half}};

// That of torch's C interface: tells dtypes apart without the translation of scalar_type().
inline int32_t dtype_number(const Tensor& tensor) {
  int32_t dtype;
  check_torch("tell a dtype", aoti_torch_get_dtype(tensor.get(), &dtype));
  return dtype;
}

inline DType dtype_of(const char* op, const char* name, const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  const auto* const found = std::ranges::find(kScalarTypes.values, type);
  if (found == std::end(kScalarTypes.values)) {
    fail(op, ": ", name, " must be float32, float64, bfloat16 or float16, got ",
         torch::headeronly::toString(type));
  }
  return static_cast<DType>(found - kScalarTypes.values);
}

// For example "cuda:0".
inline std::string device_of(const Tensor& tensor) {
  const torch::stable::Device device = tensor.device();
  switch (device.type()) {
    case torch::headeronly::DeviceType::CPU:
      return "cpu";
    case torch::headeronly::DeviceType::CUDA:
      return "cuda:" + std::to_string(device.index());
    default:
      return "another device";
  }
}

// The kernels of CUDA would take a pointer to another device's memory for one to their own. The index is -1
// on the CPU, so it alone tells all devices apart for which operators are registered.
inline void check_same_device(const char* op, const char* first_name, const Tensor& first, const char* name,
                              const Tensor& tensor) {
  if (tensor.get_device_index() != first.get_device_index()) {
    fail(op, ": ", first_name, " is on ", device_of(first), ", but ", name, " is on ", device_of(tensor));
  }
}

inline void check_same_kind(const char* op, const char* first_name, const Tensor& first, const char* name,
                            const Tensor& tensor) {
  if (tensor.scalar_type() != first.scalar_type()) {
    fail(op, ": ", first_name, " is ", torch::headeronly::toString(first.scalar_type()), ", but ", name,
         " is ", torch::headeronly::toString(tensor.scalar_type()));
  }
  check_same_device(op, first_name, first, name, tensor);
}

inline void check_sizes(const char* op, const char* name, const Tensor& tensor, Sizes wanted) {
  if (!std::ranges::equal(sizes_of(tensor), wanted)) {
    fail(op, ": ", name, " must have the sizes ", to_string(wanted), ", got ", to_string(sizes_of(tensor)));
  }
}

// The format that ATen's suggest_memory_format names for a 4-D tensor.
inline Format format_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  if (sizes.size() != 4 || strides[1] == 0) return Format::kContiguous;
  int64_t least = 0;
  for (int axis : {1, 3, 2, 0}) {
    if (sizes[axis] == 0 || strides[axis] < least) return Format::kContiguous;
    if (axis == 0 && least == strides[1]) return Format::kContiguous;
    least = strides[axis] * (sizes[axis] > 1 ? sizes[axis] : 1);
  }
  return Format::kChannelsLast;
}

inline torch::headeronly::MemoryFormat memory_format(Format format) {
  return format == Format::kChannelsLast ? torch::headeronly::MemoryFormat::ChannelsLast
                                         : torch::headeronly::MemoryFormat::Contiguous;
}

inline std::vector<int64_t> dense_strides(Sizes sizes, Format format) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  const auto place = [&](size_t axis) {
    strides[axis] = stride;
    stride *= sizes[axis] > 0 ? sizes[axis] : 1;
  };
  if (format == Format::kChannelsLast) {
    for (size_t axis : {1, 3, 2, 0}) place(axis);
  } else {
    for (size_t axis = sizes.size(); axis-- > 0;) place(axis);
  }
  return strides;
}

// Uninitialised, dense in this format, on the device of `like`. Straight to the shim, which takes half the
// time of torch::stable::empty with its trip through the dispatcher. dtype: what aoti_torch_dtype_uint8()
// etc. give.
inline Tensor empty(int32_t dtype, Sizes sizes, const Tensor& like, Format format) {
  const std::vector<int64_t> strides = dense_strides(sizes, format);
  int32_t device_type;
  AtenTensorHandle handle;
  check_torch("tell a device", aoti_torch_get_device_type(like.get(), &device_type));
  check_torch("allocate a tensor",
              aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                       dtype, device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

// Uninitialised bytes of scratch memory.
inline AtenTensorHandle empty_bytes(int64_t bytes, int32_t device_type, int32_t device_index) {
  const int64_t stride = 1;
  AtenTensorHandle handle;
  check_torch("allocate scratch memory",
              aoti_torch_empty_strided(1, &bytes, &stride, aoti_torch_dtype_uint8(), device_type,
                                       device_index, &handle));
  return handle;
}

// The same as empty(), of the dtype of `like`.
inline Tensor empty(Sizes sizes, const Tensor& like, Format format = Format::kContiguous) {
  return empty(dtype_number(like), sizes, like, format);
}

inline bool is_on_cpu(const Tensor& tensor) {
  return tensor.get_device_index() < 0;  // of the devices for which operators are registered
}

// Writes the values of `from` into `to`, of the same sizes and dtype. Elements of `to` must not share memory.
inline void copy(const Tensor& to, const Tensor& from) {
  if (is_on_cpu(to) && in_forked_child()) {
    return strided_copy(sizes_of(to), strides_of(from), strides_of(to), to.element_size(),
                        from.const_data_ptr(), to.mutable_data_ptr());
  }
  call_torch("copy a tensor", [&] {
    Tensor written = to;
    return torch::stable::copy_(written, from);
  });
}

// The tensor itself if it is dense in this format, else a copy that is.
inline Tensor dense(const Tensor& tensor, Format format = Format::kContiguous) {
  if (format == Format::kContiguous
          ? tensor.is_contiguous()
          : std::ranges::equal(strides_of(tensor), dense_strides(sizes_of(tensor), format))) {
    return tensor;
  }
  if (is_on_cpu(tensor) && in_forked_child()) {
    Tensor output = empty(sizes_of(tensor), tensor, format);
    copy(output, tensor);
    return output;
  }
  return call_torch("copy a tensor",
                    [&] { return torch::stable::contiguous(tensor, memory_format(format)); });
}

// For tensors that are dense.
inline void set_to_zero(const Tensor& tensor) {
  if (is_on_cpu(tensor)) {
    std::memset(tensor.mutable_data_ptr(), 0, tensor.numel() * tensor.element_size());
    return;
  }
  call_torch("set a tensor to zero", [&] {
    Tensor written = tensor;
    return torch::stable::zero_(written);
  });
}

}  // namespace lenet_ext
