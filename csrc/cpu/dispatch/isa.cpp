#include "cpu/dispatch/isa.h"

#include <cstdlib>

namespace lenet_ext::cpu {

extern const Kernels scalar_kernels, avx2_kernels, avx512_kernels, neon_kernels;

namespace {

struct Isa {
  const char* name;
  const Kernels* kernels;
  bool detected;
};

// Built is one thing, detected another: both are needed. The fastest stands last.
std::vector<Isa> all_isas() {
  std::vector<Isa> isas = {{"scalar", &scalar_kernels, true}};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  isas.push_back({"avx2", &avx2_kernels, avx2});
  isas.push_back({"avx512", &avx512_kernels, avx512});
#elif defined(__aarch64__)
  isas.push_back({"neon", &neon_kernels, true});
#endif
  return isas;
}

Isa chosen = {"scalar", &scalar_kernels, true};
std::string chosen_name = chosen.name;

std::vector<std::string> names(bool detected_only) {
  std::vector<std::string> result;
  for (const Isa& isa : all_isas()) {
    if (isa.detected || !detected_only) result.push_back(isa.name);
  }
  return result;
}

}  // namespace

std::vector<std::string> isas_built() {
  return names(false);
}
std::vector<std::string> isas_usable() {
  return names(true);
}

void choose_isa() {
  const char* wanted = std::getenv("LENET_EXT_ISA");
  const bool any = wanted == nullptr || *wanted == '\0';
  bool found = false;
  for (const Isa& isa : all_isas()) {
    if (isa.detected && (any || std::string(isa.name) == wanted)) chosen = isa, found = true;
  }
  if (!found) {
    std::string usable;
    for (const std::string& name : isas_usable()) usable += (usable.empty() ? "" : ", ") + name;
    fail("lenet_ext: LENET_EXT_ISA=", wanted, " is unknown or not offered by this CPU; these work: ", usable);
  }
  chosen_name = chosen.name;
}

const std::string& isa_in_use() {
  return chosen_name;
}
const Kernels& kernels() {
  return *chosen.kernels;
}

}  // namespace lenet_ext::cpu
