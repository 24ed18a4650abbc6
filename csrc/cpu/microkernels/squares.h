// Sums of squares, and norms that follow from them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

namespace lenet_ext::cpu {

// In the compute type within a block, beyond it in float64; all in float64 where the compute type has no numbers as
// large.
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
    const double sum = S::reduce_add(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
    const auto add_square = [](double before, double value) { return before + value * value; };
    total += std::isfinite(sum) ? sum : std::accumulate(values + begin, values + end, 0.0, add_square);
  }
  return total;
}

// What values are multiplied by so that their norm is at most max_norm, as torch.nn.utils.clip_grad_norm_ and
// Opacus have it; a NaN stays one.
inline double clipping_factor(double max_norm, double sum_of_squares) {
  const double factor = max_norm / (std::sqrt(sum_of_squares) + 1e-6);
  return factor > 1 ? 1 : factor;
}

}  // namespace lenet_ext::cpu
