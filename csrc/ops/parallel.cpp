#include "cpu/runtime/parallel.h"

#include <torch/csrc/stable/ops.h>

#include "ops/fork.h"

namespace lenet_ext::cpu {

void run_parallel(int64_t count, int64_t grain, RangeBody body, void* context) {
  if (in_forked_child()) return body(context, 0, count);
  torch::stable::parallel_for(0, count, grain,
                              [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

}  // namespace lenet_ext::cpu
