// The pybind11 module lenet_ext._C. The operators are in csrc/ops, registered when this library is loaded.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/version.h>

#include "bound_step.h"
#include "cpu/dispatch/isa.h"
#include "engine/network_builder.h"
#include "frozen.h"
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

// By name: the attributes of its module that are numbers, in this order, and those that are tensors.
py::dict losses() {
  py::dict known;
  for (const lenet_ext::LossInfo& info : lenet_ext::kLosses) {
    known[info.name] = py::make_tuple(std::vector<std::string>(info.options.begin(), info.options.end()),
                                      std::vector<std::string>(info.tensors.begin(), info.tensors.end()));
  }
  return known;
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

// Checks the network; the sizes of the outputs of one image, and what network_forward saves: values of each
// image, values of statistics, bytes of each image.
py::tuple saved_sizes(const std::string& program, const lenet_ext::SizeList& images,
                      const std::vector<lenet_ext::SizeList>& parameters) {
  const std::vector<lenet_ext::Sizes> sizes(parameters.begin(), parameters.end());
  const lenet_ext::Description description = lenet_ext::DescriptionReader(program).read();
  const lenet_ext::Network net = lenet_ext::NetworkBuilder(description, images, sizes).build();
  std::vector<lenet_ext::SizeList> outputs;
  for (const lenet_ext::NetworkOutput& output : net.outputs) outputs.push_back(output.sizes);
  const size_t stages = net.stages.size();
  return py::make_tuple(outputs, net.values_before(stages), net.statistics_before(stages),
                        net.argmax_before(stages));
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
  m.def("losses", &losses, "The losses of the fused engine: their options, their tensors.");
  m.def("optimizers", &optimizers, "The optimizers of the fused engine: their options, their state.");
  m.def("saved_sizes", &saved_sizes,
        "Checks a network for images and parameters of some sizes: what its outputs and saved values are.");
  m.def("in_forked_child", &lenet_ext::in_forked_child, "Whether this process is the child of a fork.");
  lenet_ext::define_watch(m);
  lenet_ext::define_frozen(m);
  lenet_ext::define_bound_step(m);
}
