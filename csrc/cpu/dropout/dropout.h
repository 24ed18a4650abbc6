// Dropout: y = x * factor, and of gradients the same, where the factor of an element is 0 with probability p
// and 1 / (1 - p) else. Factors are not stored: they come from a counter-based generator, and depend on the
// seed, the layer, the image's place in the batch and the element alone.
//
// Element e of an image is decided by word (e % 64) / 16 of the block whose counter is
//
//   (e / 64 * 16 + e % 16, image's low word, image's high word, layer)
//
// under the seed as key: by 64 consecutive elements 16 blocks are used in full, each word of them by 16
// elements side by side. It is dropped where that word is less than p * 2^32.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/dropout/philox.h"
#include "cpu/microkernels/lanes.h"

namespace lenet_ext::cpu {

template <class S>
class Dropout {
  using T = typename S::Scalar;
  using Generator = Philox<S>;
  static constexpr int kBlocks = Generator::kBlocks, kTogether = 4 * kBlocks;

 public:
  // Of images of (channels, plane) values, a channel of which stays or goes as a whole; plane is 1 where each
  // value does so.
  Dropout(int64_t channels, int64_t plane, double p, uint32_t layer)
      : channels_(plane > 0 ? channels : 0), plane_(plane), layer_(layer) {
    constexpr double kWords = 4294967296;
    limit_ = static_cast<uint32_t>(std::min(std::round(p * kWords), kWords - 1));
    scale_ = p >= 1 ? T(0) : static_cast<T>(1 / (1 - p));
  }

  // Of images [first, first + count) of the batch; y may be x.
  void apply(uint64_t seed, int64_t first, int64_t count, const T* x, T* y) const {
    for (int64_t image = first; image < first + count; ++image) {
      for (int64_t channel = 0; channel < channels_; channel += kTogether) {
        T factors[kTogether];
        find_factors(seed, image, channel, factors);
        const int64_t here = std::min<int64_t>(kTogether, channels_ - channel);
        // Products with zero, not zeros: what is not finite becomes NaN, as in ATen.
        for (int64_t c = 0; plane_ > 1 && c < here; ++c) {
          const auto factor = S::broadcast(factors[c]);
          for_each_lanes<S>(plane_, [&](int64_t i, const auto& load, const auto& store) {
            store(y + c * plane_ + i, S::mul(load(x + c * plane_ + i), factor));
          });
        }
        for_each_lanes<S>(plane_ > 1 ? 0 : here, [&](int64_t i, const auto& load, const auto& store) {
          store(y + i, S::mul(load(x + i), load(factors + i)));
        });
        x += here * plane_, y += here * plane_;
      }
    }
  }

 private:
  void find_factors(uint64_t seed, int64_t image, int64_t channel, T (&factors)[kTogether]) const {
    uint32_t words[4][kBlocks];
    for (int i = 0; i < kBlocks; ++i) {
      words[0][i] = static_cast<uint32_t>(channel / 4 + i);
      words[1][i] = static_cast<uint32_t>(image);
      words[2][i] = static_cast<uint32_t>(static_cast<uint64_t>(image) >> 32);
      words[3][i] = layer_;
    }
    Generator::generate(seed, words);
    const T scale = scale_;
    const uint32_t limit = limit_;
    for (int word = 0; word < 4; ++word) {
      for (int i = 0; i < kBlocks; ++i) {
        factors[word * kBlocks + i] = words[word][i] < limit ? T(0) : scale;
      }
    }
  }

  const int64_t channels_, plane_;
  const uint32_t layer_;
  uint32_t limit_;
  T scale_;
};

}  // namespace lenet_ext::cpu
