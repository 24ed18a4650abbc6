// How the kernel of the fused engine is launched.
#pragma once

#include "cuda/engine/pass.cuh"

namespace lenet_ext::cuda {

// What a pass does, as far as the layout of a tile depends on it.
struct NetPurpose {
  bool forward, backward, input_grad;
};

template <class Compute>
struct NetLaunch {
  void (*kernel)(NetPass<Compute>);
  int64_t blocks, shared_bytes;
  int64_t workspace_bytes;  // for pass.workspace
};

// Fills the sizes and the layout of `pass`.
template <class Compute>
NetLaunch<Compute> plan_net(const char* op, const NetShape& net, const NetPurpose& purpose,
                            NetPass<Compute>& pass);
template <class Compute>
void launch_net(const char* op, const NetLaunch<Compute>& plan, const NetPass<Compute>& pass);

}  // namespace lenet_ext::cuda
