// The instruction sets of this build, and the one in use.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace lenet_ext::cpu {

std::vector<std::string> isas_built();
std::vector<std::string> isas_usable();  // built, and offered by this CPU; the fastest last

// The fastest that is usable, or the one that LENET_EXT_ISA names; decided by the first call of one of these,
// which throw std::runtime_error where that name is not usable.
const std::string& isa_in_use();
const Kernels& kernels();

}  // namespace lenet_ext::cpu
