// Numbers of 32 bits and their products.
#pragma once

#include "check.h"

namespace lenet_ext::simd {

template <class S>
void test_words() {
  using Words = typename S::Words;
  constexpr uint32_t kValues[] = {0, 1, 2, 0x7fffffff, 0x80000000, 0xd2511f53, 0xfffffffe, 0xffffffff};
  constexpr int kCount = std::size(kValues);
  for (int first = 0; first < kCount; ++first) {
    for (const uint32_t factor : kValues) {
      uint32_t values[Words::width], low[Words::width], high[Words::width], both[Words::width];
      for (int i = 0; i < Words::width; ++i) values[i] = kValues[(first + i) % kCount];
      const auto factors = Words::broadcast(factor);
      const auto product = Words::multiply(Words::load(values), factors);
      // Whatever is in the upper half of a lane takes no part.
      const auto again = Words::multiply(product, factors);
      Words::store(low, again);
      Words::store(high, Words::high(product));
      Words::store(both, Words::exclusive_or(product, factors));
      for (int i = 0; i < Words::width; ++i) {
        const uint64_t expected = uint64_t{values[i]} * factor;
        expect_bits("multiply", i, low[i], static_cast<uint32_t>(expected) * factor);
        expect_bits("high", i, high[i], static_cast<uint32_t>(expected >> 32));
        expect_bits("exclusive_or", i, both[i], static_cast<uint32_t>(expected) ^ factor);
      }
    }
  }
}

}  // namespace lenet_ext::simd
