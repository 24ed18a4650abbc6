// The way back from channels as lanes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/microkernels/transpose.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

// The argmax of a pool, numbers [pixel][channel], `channels` from a pixel to the next, to bytes of out_channels
// planes, plane_step apart.
template <class S>
void write_argmax(const typename S::Scalar* argmax, int64_t channels, int64_t out_channels, int64_t pixels,
                  uint8_t* to, int64_t plane_step) {
  Scratch<typename S::Scalar> planes(pixels * out_channels);
  transpose<S>(argmax, channels, planes.data(), pixels, pixels, out_channels);
  for (int64_t o = 0; o < out_channels; ++o, to += plane_step) {
    for (int64_t i = 0; i < pixels; i += S::width) {
      const int n = static_cast<int>(std::min<int64_t>(S::width, pixels - i));
      S::store_bytes(to + i, S::load_partial(planes.data() + o * pixels + i, n), n);
    }
  }
}

}  // namespace lenet_ext::cpu
