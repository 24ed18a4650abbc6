// How to bring chosen lanes to the front of a vector of eight, for instruction sets that cannot compress one.
#pragma once

#include <array>
#include <cstdint>

namespace lenet_ext::simd {

// Of each number of 8 bits the places of those that are set, from the lowest on, a byte each; zeros behind them.
inline constexpr std::array<uint64_t, 256> kPlacesOfBits = [] {
  std::array<uint64_t, 256> all{};
  for (unsigned bits = 0; bits < all.size(); ++bits) {
    int count = 0;
    for (uint64_t place = 0; place < 8; ++place) {
      if ((bits >> place & 1) != 0) all[bits] |= place << 8 * count++;
    }
  }
  return all;
}();

}  // namespace lenet_ext::simd
