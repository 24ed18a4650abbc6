// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
// as 1, 2, 3" (SC11): a block of four 32-bit numbers for each counter of four words, under a key of two.
#pragma once

#include <cstdint>

namespace lenet_ext::cpu {

// Some blocks at once, in plain loops that compilers turn into vectors. S makes them once per instruction set.
template <class S>
struct Philox {
  static constexpr int kBlocks = 16;

  // words[i][block]: the counters, which become the numbers.
  static void generate(uint64_t key, uint32_t (&words)[4][kBlocks]) {
    constexpr int kRounds = 10;
    constexpr uint32_t kKeySteps[2] = {0x9e3779b9, 0xbb67ae85};
    auto key_low = static_cast<uint32_t>(key), key_high = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kRounds; ++round) {
      for (int i = 0; i < kBlocks; ++i) {
        const uint64_t first = uint64_t{0xd2511f53} * words[0][i];
        const uint64_t second = uint64_t{0xcd9e8d57} * words[2][i];
        words[0][i] = static_cast<uint32_t>(second >> 32) ^ words[1][i] ^ key_low;
        words[1][i] = static_cast<uint32_t>(second);
        words[2][i] = static_cast<uint32_t>(first >> 32) ^ words[3][i] ^ key_high;
        words[3][i] = static_cast<uint32_t>(first);
      }
      key_low += kKeySteps[0], key_high += kKeySteps[1];
    }
  }
};

}  // namespace lenet_ext::cpu
