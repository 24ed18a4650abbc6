// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
// as 1, 2, 3" (SC11): a block of four 32-bit numbers for each counter of four words, under a key of two.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lenet_ext::cpu {

// Some blocks at once. A number has a lane of 64 bits, since the products have so many; vectors are taken in
// pairs, for the latency of the multiplication.
template <class S>
struct Philox {
  static constexpr int kBlocks = 16;

  // words[i][block]: the counters, which become the numbers.
  static void generate(uint64_t key, uint32_t (&words)[4][kBlocks]) {
    constexpr int kTogether = std::min(2 * Words::width, kBlocks);
    for (int first = 0; first < kBlocks; first += kTogether) {
      V some[kTogether / Words::width][4];
#pragma GCC unroll 8
      for (int i = 0; i < kTogether; i += Words::width) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) some[i / Words::width][j] = Words::load(words[j] + first + i);
      }
      ten_rounds(key, some);
#pragma GCC unroll 8
      for (int i = 0; i < kTogether; i += Words::width) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) Words::store(words[j] + first + i, some[i / Words::width][j]);
      }
    }
  }

 private:
  using Words = typename S::Words;
  using V = typename Words::Vector;

  template <int kVectors>
  static inline __attribute__((always_inline)) void ten_rounds(uint64_t key, V (&words)[kVectors][4]) {
    constexpr int kRounds = 10;
    constexpr uint32_t kKeySteps[2] = {0x9e3779b9, 0xbb67ae85};
    const V first_factor = Words::broadcast(0xd2511f53), second_factor = Words::broadcast(0xcd9e8d57);
    auto key_low = static_cast<uint32_t>(key), key_high = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kRounds; ++round) {
      const V low = Words::broadcast(key_low), high = Words::broadcast(key_high);
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) {
        V(&w)[4] = words[i];
        const V first = Words::multiply(w[0], first_factor), second = Words::multiply(w[2], second_factor);
        w[0] = Words::exclusive_or(Words::exclusive_or(Words::high(second), w[1]), low);
        w[2] = Words::exclusive_or(Words::exclusive_or(Words::high(first), w[3]), high);
        w[1] = second, w[3] = first;
      }
      key_low += kKeySteps[0], key_high += kKeySteps[1];
    }
  }
};

}  // namespace lenet_ext::cpu
