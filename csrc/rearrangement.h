// permute, pad and slice of an image: where each element of the result comes from.
#pragma once

#include <limits>
#include <vector>

#include "shapes.h"

namespace lenet_ext {

// A dimension of the result: its coordinate i is coordinate start + i * step of a dimension of the input, which
// is padded where there is none.
struct RearrangedDim {
  int64_t size;  // of the result
  int64_t start, step;
  int64_t input_size, input_stride;
};

// No element of the input comes twice.
struct Rearrangement {
  static constexpr int32_t kPadding = -1;

  int64_t input_size;           // elements
  std::vector<int32_t> source;  // of each element of the result, in the input
  double padding = 0;           // the value of what has no source

  // The way back: what of the input comes nowhere becomes 0. The gradient of the input is so rearranged.
  Rearrangement inverse() const {
    Rearrangement r{static_cast<int64_t>(source.size()), std::vector<int32_t>(input_size, kPadding)};
    for (size_t i = 0; i < source.size(); ++i) {
      if (source[i] != kPadding) r.source[source[i]] = static_cast<int32_t>(i);
    }
    return r;
  }
};

inline Rearrangement rearrangement(const char* op, const std::vector<RearrangedDim>& dims,
                                   double padding = 0) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  Rearrangement r{.input_size = 1, .source = {0}, .padding = padding};
  int64_t size = 1;
  for (const RearrangedDim& dim : dims) {
    r.input_size = multiply_sizes(op, r.input_size, dim.input_size);
    size = multiply_sizes(op, size, dim.size);
    if (std::max(size, r.input_size) > kMost) fail(op, ": an image of more than ", kMost, " elements");
  }
  for (const RearrangedDim& dim : dims) {
    std::vector<int32_t> source;
    source.reserve(r.source.size() * dim.size);
    for (const int32_t outer : r.source) {
      for (int64_t i = 0; i < dim.size; ++i) {
        const int64_t at = dim.start + i * dim.step;
        const bool is_padding = outer == Rearrangement::kPadding || at < 0 || at >= dim.input_size;
        source.push_back(is_padding ? Rearrangement::kPadding
                                    : static_cast<int32_t>(outer + at * dim.input_stride));
      }
    }
    r.source = std::move(source);
  }
  return r;
}

// Dimensions that stay as they are.
inline std::vector<RearrangedDim> unchanged_dims(Sizes sizes) {
  std::vector<RearrangedDim> dims(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0; stride *= sizes[i]) dims[i] = {sizes[i], 0, 1, sizes[i], stride};
  return dims;
}

// Dimension i of the result is order[i] of the input.
inline Rearrangement permutation(const char* op, Sizes sizes, Sizes order) {
  const std::vector<RearrangedDim> dims = unchanged_dims(sizes);
  std::vector<RearrangedDim> permuted;
  for (const int64_t dim : order) permuted.push_back(dims[dim]);
  return rearrangement(op, permuted);
}

// pads: how much is added at the begin and at the end of each dimension, or taken off where it is negative.
inline Rearrangement padded(const char* op, Sizes sizes, Sizes pads, double value) {
  std::vector<RearrangedDim> dims = unchanged_dims(sizes);
  for (size_t i = 0; i < dims.size(); ++i) {
    dims[i].start = -pads[2 * i];
    dims[i].size += pads[2 * i] + pads[2 * i + 1];
  }
  return rearrangement(op, dims, value);
}

// Coordinates start, start + step ... below stop of one dimension.
inline Rearrangement sliced(const char* op, Sizes sizes, int64_t dim, int64_t start, int64_t stop,
                            int64_t step) {
  std::vector<RearrangedDim> dims = unchanged_dims(sizes);
  dims[dim].start = start, dims[dim].step = step;
  dims[dim].size = (stop - start + step - 1) / step;
  return rearrangement(op, dims);
}

}  // namespace lenet_ext
