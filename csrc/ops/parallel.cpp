#include "cpu/runtime/parallel.h"

#include <torch/csrc/stable/ops.h>

#if defined(__unix__)
#include <pthread.h>
#endif

namespace lenet_ext::cpu {
namespace {

// Torch's pool does not survive a fork: where the parent has used it, the child would wait for threads that
// it does not have. There the calling thread does all the work, with the same results.
bool is_forked_child = false;

#if defined(__unix__)
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { is_forked_child = true; });
#endif

}  // namespace

void run_parallel(int64_t count, int64_t grain, RangeBody body, void* context) {
  if (is_forked_child) return body(context, 0, count);
  torch::stable::parallel_for(0, count, grain,
                              [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

}  // namespace lenet_ext::cpu
