#pragma once

namespace lenet_ext::cpu {

// Who computes a convolution decides between ways that round differently.
enum class Caller {
  kLayer,   // with the weights of this call; the input gradient by patches where that is faster
  kEngine,  // with weights that are prepared for many images
};

}  // namespace lenet_ext::cpu
