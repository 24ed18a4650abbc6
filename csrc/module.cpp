// The pybind11 module lenet_ext._C. The operators are in csrc/ops, registered when this library is loaded.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/version.h>

#include "cpu/dispatch/isa.h"
#include "engine/network.h"
#include "ops/fork.h"
#include "watch.h"

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

// By name: the options of its parameter groups in the order of their numbers, the tensors of its state, and
// whether it counts steps.
py::dict optimizers() {
  py::dict known;
  for (const lenet_ext::OptimizerInfo& info : lenet_ext::kOptimizers) {
    known[info.name] =
        py::make_tuple(std::vector<std::string>(info.options.begin(), info.options.end()),
                       std::vector<std::string>(info.state.begin(), info.state.end()), info.counts_steps);
  }
  return known;
}

void check_network(const std::string& program, const lenet_ext::SizeList& images,
                   const std::vector<lenet_ext::SizeList>& parameters) {
  const std::vector<lenet_ext::Sizes> sizes(parameters.begin(), parameters.end());
  lenet_ext::NetworkBuilder(lenet_ext::DescriptionReader(program).read(), images, sizes).build();
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  try {
    lenet_ext::cpu::isa_in_use();
  } catch (const std::runtime_error& error) {
    throw py::import_error(error.what());
  }
  m.def("build_info", &build_info, "How this module was built and which instruction set it uses.");
  m.def("cpu_isa", &lenet_ext::cpu::isa_in_use, "The instruction set in use.");
  m.def(
      "activations",
      [] {
        std::vector<std::string> names;
        for (const lenet_ext::ActivationInfo& info : lenet_ext::kActivations) names.emplace_back(info.name);
        return names;
      },
      "The activations of the fused engine.");
  m.def(
      "losses",
      [] { return std::vector<std::string>(std::begin(lenet_ext::kLosses), std::end(lenet_ext::kLosses)); },
      "The losses of the fused engine.");
  m.def("optimizers", &optimizers, "The optimizers of the fused engine: their options, their state.");
  m.def("kept_values", &lenet_ext::kept_values,
        "What a network keeps for backward: values, bytes of an argmax.");
  m.def("check_network", &check_network, "Checks a network for images and parameters of some sizes.");
  m.def("in_forked_child", &lenet_ext::in_forked_child, "Whether this process is the child of a fork.");
  lenet_ext::define_watch(m);
}
