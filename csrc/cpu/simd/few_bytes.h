// Parts of a vector to and from memory, for instruction sets without masks for them.
#pragma once

#include <cstring>

namespace lenet_ext::simd {

// Copies 0 to kMost bytes, which is a power of two: std::memcpy of a number that the compiler does not know is a call,
// before which all vector registers are saved.
template <int kMost>
void copy_few(void* to, const void* from, int bytes) {
  if ((bytes & kMost) != 0) {
    std::memcpy(to, from, kMost);
    return;
  }
  if constexpr (kMost > 1) {
    constexpr int kHalf = kMost / 2;
    const int whole = bytes & kHalf;
    if (whole != 0) std::memcpy(to, from, kHalf);
    copy_few<kHalf>(static_cast<char*>(to) + whole, static_cast<const char*>(from) + whole, bytes - whole);
  }
}

}  // namespace lenet_ext::simd
