// The pybind11 module lenet_ext._C. The operators are in csrc/ops, registered when this library is loaded.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/version.h>

#include "cpu/dispatch/isa.h"

namespace {

namespace py = pybind11;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

py::dict build_info() {
  const std::vector<std::string> cuda_archs = split(LENET_EXT_CUDA_ARCHS);
  py::dict info;
  info["version"] = LENET_EXT_VERSION;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["isas"] = lenet_ext::cpu::isas_built();
  info["isas_usable"] = lenet_ext::cpu::isas_usable();
  info["isa"] = lenet_ext::cpu::isa_in_use();
  info["cuda"] = !cuda_archs.empty();
  info["cuda_archs"] = cuda_archs;
  info["torch_target"] =
      std::to_string(TORCH_TARGET_VERSION >> 56) + "." + std::to_string((TORCH_TARGET_VERSION >> 48) & 0xff);
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  try {
    lenet_ext::cpu::choose_isa();
  } catch (const std::runtime_error& error) {
    throw py::import_error(error.what());
  }
  m.def("build_info", &build_info, "How this module was built and which instruction set it uses.");
  m.def("cpu_isa", &lenet_ext::cpu::isa_in_use, "The instruction set in use.");
}
