// The instruction sets of this build, and the one in use.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace lenet_ext::cpu {

std::vector<std::string> isas_built();
std::vector<std::string> isas_usable();  // built, and offered by this CPU; the fastest last

// Reads LENET_EXT_ISA; throws std::runtime_error if it names a set that is not usable. Called at import.
void choose_isa();

const std::string& isa_in_use();
const Kernels& kernels();

}  // namespace lenet_ext::cpu
