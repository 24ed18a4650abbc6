// The factors of dropout by themselves, for those who multiply without the engine.
#pragma once

#include "cpu/dropout/dropout.h"
#include "cpu/microkernels/transpose.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

// Of `count` images of (channels, plane) values: see Dropout.
template <class S, class Stored>
void dropout_mask(int64_t count, int64_t channels, int64_t plane, double p, uint32_t layer, uint64_t seed,
                  Stored* mask) {
  using T = typename S::Scalar;
  const Dropout<S> dropout(channels, plane, p, layer);
  const int64_t size = channels * plane;
  Scratch<T> values(size);
  for (int64_t i = 0; i < count; ++i) {
    std::fill_n(values.data(), size, T(1));
    dropout.apply(seed, i, 1, values.data(), values.data());
    copy_row<S>(values.data(), mask + i * size, size);
  }
}

}  // namespace lenet_ext::cpu
