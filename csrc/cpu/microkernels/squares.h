// Sums of squares.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lenet_ext::cpu {

// In the compute type within a block, beyond it in float64.
template <class S>
double sum_of_squares(const typename S::Scalar* values, int64_t count) {
  constexpr int64_t kVectors = 4, kBlock = 64 * kVectors * S::width;
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, count);
    typename S::Vector sums[kVectors];
    for (auto& sum : sums) sum = S::zero();
    int64_t i = begin;
    for (; i + kVectors * S::width <= end; i += kVectors * S::width) {
      for (int k = 0; k < kVectors; ++k) {
        const auto v = S::load(values + i + k * S::width);
        sums[k] = S::fma(v, v, sums[k]);
      }
    }
    for (; i < end; i += S::width) {
      const auto v = S::load_partial(values + i, static_cast<int>(std::min<int64_t>(S::width, end - i)));
      sums[0] = S::fma(v, v, sums[0]);
    }
    total += static_cast<double>(S::reduce_add(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]))));
  }
  return total;
}

}  // namespace lenet_ext::cpu
