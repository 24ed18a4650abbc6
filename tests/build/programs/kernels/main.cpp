// Every kernel of some instruction sets without torch, for sanitizers, valgrind and QEMU. Each is called
// twice on one thread, on three threads, and from three threads at once: all six runs must give the same
// bits, and all instruction sets the same numbers as plain C++, up to rounding.
//
// In the place of csrc/cpu/dispatch/isa.cpp, and with its LENET_EXT_ISAS(X), whose first is plain C++.
#include <algorithm>
#include <cstdio>
#include <thread>
#include <vector>

#include "calls.h"
#include "cpu/dispatch/kernel_table.h"
#include "cpu/max_pool2d/indices.h"
#include "cpu/runtime/parallel.h"

namespace lenet_ext {
namespace {
thread_local int threads = 1;
}

// As torch's: the calling thread takes the first range, and what runs on the others has no threads of its
// own.
void cpu::run_parallel(int64_t count, int64_t grain, RangeBody body, void* context) {
  const int64_t parts = std::min<int64_t>(threads, (count + grain - 1) / grain);
  const auto begin = [=](int64_t part) { return count * part / parts; };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < parts; ++i) {
    others.emplace_back([=] { body(context, begin(i), begin(i + 1)); });
  }
  body(context, 0, begin(1));
  for (std::thread& other : others) other.join();
}

namespace {

struct Isa {
  const char* name;
  Kernels kernels;
};

template <template <class> class Simd>
Isa make_isa(const char* name) {
  Isa isa{name, {{}, &cpu::max_pool2d_indices}};
  cpu::enter_kernels<Simd, float>(isa.kernels.typed);
  cpu::enter_kernels<Simd, double>(isa.kernels.typed);
  return isa;
}

std::vector<Isa> all_isas() {
#define LENET_EXT_MAKE_ISA(name, Simd) make_isa<simd::Simd>(#name),
  return {LENET_EXT_ISAS(LENET_EXT_MAKE_ISA)};
#undef LENET_EXT_MAKE_ISA
}

Results results_of(const Kernels& kernels, DType dtype, int with_threads) {
  threads = with_threads;
  Calls calls(kernels, dtype);
  for (Format format : {Format::kContiguous, Format::kChannelsLast}) {
    const auto conv = [&](SizeList input, SizeList weight, const Conv2dParameters& p) {
      calls.conv2d(conv2d_shape("conv2d", input, weight, p), format);
    };
    conv({9, 3, 14, 15}, {6, 3, 5, 5}, {1, 1, 0, 0, 0, 0, 1, 1, 1});
    conv({1, 17, 19, 21}, {33, 17, 3, 3}, {1, 1, 1, 1, 1, 1, 1, 1, 1});
    conv({3, 9, 17, 13}, {18, 1, 3, 2}, {2, 1, 1, 0, 2, 1, 1, 2, 9});
    conv({3, 33, 7, 7}, {17, 33, 1, 1}, {1, 1, 0, 0, 0, 0, 1, 1, 1});
    const auto pool = [&](SizeList input, const MaxPool2dParameters& p, bool ceil_mode) {
      calls.max_pool2d(max_pool2d_shape("max_pool2d", input, p, ceil_mode), format);
    };
    pool({5, 17, 28, 28}, {2, 2, 2, 2, 0, 0, 1, 1}, false);
    pool({5, 17, 19, 21}, {3, 3, 2, 1, 1, 1, 1, 2}, true);
    pool({2, 3, 40, 40}, {17, 17, 3, 3, 8, 8, 1, 1}, false);
  }
  calls.linear({67, 130, 65});
  calls.linear({1, 1025, 129});
  calls.linear({7, 40, 33, 50});
  for (int kind = 1; kind < static_cast<int>(std::size(kActivations)); ++kind) {
    calls.activation({static_cast<Activation>(kind), {0.5, 1.5, 0.7}}, kind == 1 ? 40'003 : 1'003);
  }
  calls.network(37, 3, 40);
  calls.network(37, 5, 33);
  calls.network(5, 3, 1030);  // a wide layer
  return calls.results();
}

// Empty where the six runs differ.
Results checked_results(const Kernels& kernels, DType dtype) {
  std::vector<Results> runs(6);
  runs[0] = results_of(kernels, dtype, 1);
  runs[1] = results_of(kernels, dtype, 1);  // with the scratch memory of the first
  runs[2] = results_of(kernels, dtype, 3);
  std::vector<std::thread> callers;
  for (int i = 3; i < 6; ++i) {
    callers.emplace_back([&, i] { runs[i] = results_of(kernels, dtype, i % 2 + 1); });
  }
  for (std::thread& caller : callers) caller.join();
  const bool same = std::ranges::all_of(runs, [&](const Results& run) { return run == runs[0]; });
  return same ? runs[0] : Results{};
}

}  // namespace
}  // namespace lenet_ext

int main() {
  using namespace lenet_ext;
  constexpr ByDType<const char*> kNames = {{"float32", "float64", "bfloat16", "float16"}};
  constexpr ByDType<double> kTolerances = {{1e-5, 1e-13, 1e-2, 2e-3}};
  bool passed = true;
  for (int i = 0; i < StoredTypes::kCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    Results plain;
    for (const Isa& isa : all_isas()) {
      const Results results = checked_results(isa.kernels, dtype);
      if (plain.empty()) plain = results;
      double distance = 0;
      for (size_t k = 0; k < results.size(); ++k)
        distance = std::max(distance, results[k].distance(plain[k]));
      const bool right = !results.empty() && distance <= kTolerances[dtype];
      std::printf("%s %s: %s, %.1e from plain C++\n", isa.name, kNames[dtype],
                  results.empty() ? "runs differ" : "6 runs the same", distance);
      passed = passed && right;
    }
  }
  return passed ? 0 : 1;
}
