// The wrappers of one instruction set against plain loops, bit for bit. Compiled with the macros of
// csrc/cpu/dispatch/kernel_table.cpp.
#include LENET_EXT_SIMD_HEADER

#include "arithmetic.h"
#include "lanes.h"
#include "memory.h"
#include "words.h"

int main() {
  using namespace lenet_ext::simd;
  using S = LENET_EXT_SIMD<LENET_EXT_COMPUTE>;
  test_memory<S>();
  test_arithmetic<S>();
  test_lanes<S>();
  test_words<S>();
  std::printf("%lld checks, %lld failed\n", static_cast<long long>(checks), static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}
