// The statistics of one group of values of an image, and a walk over these with the elements of the weight
// that they have.
#pragma once

#include <cmath>

#include "cpu/batch_norm/statistics.h"
#include "cpu/microkernels/lanes.h"
#include "image_norm_shape.h"

namespace lenet_ext::cpu {

// xhat = (x - mean) * inv_std + shift, where the shift makes up for what rounding took from the mean: the first
// difference is nearly exact, however large the mean.
template <class S>
struct GroupStatistics {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  T mean, inv_std, shift;

  // x: at least one value.
  GroupStatistics(const ImageNormShape& s, const T* x) {
    double exact_mean, squares;
    channel_moments<S>({.channels = 1, .plane = s.size, .eps = s.eps}, 1, x, &exact_mean, &squares);
    const double factor = 1 / std::sqrt(squares / static_cast<double>(s.size) + s.eps);
    mean = static_cast<T>(exact_mean);
    inv_std = static_cast<T>(factor);
    shift = static_cast<T>((static_cast<double>(mean) - exact_mean) * factor);
  }

  V normalized(V x) const {
    return S::fma(S::sub(x, S::broadcast(mean)), S::broadcast(inv_std), S::broadcast(shift));
  }
};

// The first element of the weight that values of a group have.
inline int64_t first_weight(const ImageNormShape& s, int64_t group) {
  return group * s.size / s.run % s.weights;
}

// body(i, load, store, load_weight) for vectors of values from i on in a group; load_weight(p) gives what they
// have of p, which has an element for each of the weight.
template <class S, class Body>
void for_each_weighted(const ImageNormShape& s, int64_t group, const Body& body) {
  using T = typename S::Scalar;
  const int64_t first = first_weight(s, group);
  if (s.run == 1) {
    for_each_lanes<S>(s.size, [&](int64_t i, const auto& load, const auto& store) {
      body(i, load, store, [&](const T* p) { return load(p + first + i); });
    });
    return;
  }
  for (int64_t begin = 0, element = first; begin < s.size; begin += s.run, ++element) {
    for_each_lanes<S>(s.run, [&](int64_t i, const auto& load, const auto& store) {
      body(begin + i, load, store, [&](const T* p) { return S::broadcast(p[element]); });
    });
  }
}

}  // namespace lenet_ext::cpu
