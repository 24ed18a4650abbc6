#include "cpu/dispatch/isa.h"

#include <cstdlib>

#include "cpu/dispatch/kernel_table.h"
#include "cpu/max_pool2d/indices.h"

namespace lenet_ext::cpu {
namespace {

struct Isa {
  std::string name;
  bool detected;
  Kernels kernels;
};

bool is_detected([[maybe_unused]] const std::string& name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (name == "avx2" || name == "avx512") {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("f16c")) {
      return false;
    }
  }
  if (name == "avx512") {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return true;
}

template <template <class> class Simd>
Isa make_isa(const char* name) {
  Isa isa{name, is_detected(name), {{}, &max_pool2d_indices}};
  enter_kernels<Simd, float>(isa.kernels.typed);
  enter_kernels<Simd, double>(isa.kernels.typed);
  return isa;
}

// Built is one thing, detected another: both are needed. setup.py defines LENET_EXT_ISAS(X) as X(name,
// wrappers) for each set that it builds, the fastest last.
const std::vector<Isa>& all_isas() {
#define LENET_EXT_MAKE_ISA(name, Simd) make_isa<simd::Simd>(#name),
  static const std::vector<Isa> isas = {LENET_EXT_ISAS(LENET_EXT_MAKE_ISA)};
#undef LENET_EXT_MAKE_ISA
  return isas;
}

std::vector<std::string> names(bool detected_only) {
  std::vector<std::string> result;
  for (const Isa& isa : all_isas()) {
    if (isa.detected || !detected_only) result.push_back(isa.name);
  }
  return result;
}

const Isa& choose_isa() {
  const char* wanted = std::getenv("LENET_EXT_ISA");
  const bool any = wanted == nullptr || *wanted == '\0';
  const Isa* chosen = nullptr;
  for (const Isa& isa : all_isas()) {
    if (isa.detected && (any || isa.name == wanted)) chosen = &isa;
  }
  if (chosen != nullptr) return *chosen;
  std::string usable;
  for (const std::string& name : isas_usable()) usable += (usable.empty() ? "" : ", ") + name;
  fail("lenet_ext: LENET_EXT_ISA=", wanted, " is unknown or not offered by this CPU; these work: ", usable);
}

const Isa& chosen_isa() {
  static const Isa& isa = choose_isa();
  return isa;
}

}  // namespace

std::vector<std::string> isas_built() {
  return names(false);
}
std::vector<std::string> isas_usable() {
  return names(true);
}
const std::string& isa_in_use() {
  return chosen_isa().name;
}
const Kernels& kernels() {
  return chosen_isa().kernels;
}

}  // namespace lenet_ext::cpu
