// Threads. The kernels know nothing of torch: csrc/ops/parallel.cpp runs this on torch's own pool.
#pragma once

#include <cstdint>

namespace lenet_ext::cpu {

using RangeBody = void (*)(void* context, int64_t begin, int64_t end);

// Calls body on disjoint ranges that cover [0, count), on several threads if count > grain.
void run_parallel(int64_t count, int64_t grain, RangeBody body, void* context);

// body(begin, end) on disjoint ranges that cover [0, count). `cost` is about the cycles of one item: work
// below kSerialCycles stays on the calling thread. Where the ranges are cut depends on the number of threads,
// so body must give the same result for every cut.
template <class Body>
void parallel_for(int64_t count, int64_t cost, const Body& body) {
  constexpr int64_t kSerialCycles = 20'000;  // about 7 us, a few times what waking the pool costs
  const int64_t grain = kSerialCycles / (cost > 0 ? cost : 1) + 1;
  if (count <= grain) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  run_parallel(
      count, grain,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<const Body*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace lenet_ext::cpu
