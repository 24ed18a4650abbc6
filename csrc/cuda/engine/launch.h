// How the kernel of the fused engine is launched.
#pragma once

#include "cuda/engine/pass.cuh"

namespace lenet_ext::cuda {

// What a pass does, as far as the layout of a tile depends on it.
struct TilePurpose {
  bool forward, backward, input_grad;
};

template <class Compute>
struct TileLaunch {
  void (*kernel)(TilePass<Compute>);
  int64_t blocks, shared_bytes;
  int64_t workspace_bytes;  // for pass.workspace
};

// Fills the sizes and the layout of `pass`.
template <class Compute>
TileLaunch<Compute> plan_tile(const Network& net, int64_t batch, const TilePurpose& purpose,
                              TilePass<Compute>& pass);
template <class Compute>
void launch_tile(const char* op, const TileLaunch<Compute>& plan, const TilePass<Compute>& pass);

}  // namespace lenet_ext::cuda
