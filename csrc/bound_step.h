// BoundStep: a training step with all that it takes besides a batch, for Python to call without torch's dispatcher,
// which takes longer for a dozen tensors than a small network for an image.
#pragma once

#include <string>
#include <utility>

#include "callable.h"
#include "ops/network_train.h"
#include "python_arrays.h"

namespace lenet_ext {

class BoundStep {
 public:
  // Arguments of network_train.
  BoundStep(const pybind11::sequence& parameters, const pybind11::sequence& state,
            const pybind11::object& options, const pybind11::sequence& counts, std::string program,
            const pybind11::object& normalization, const pybind11::object& loss_weight,
            const pybind11::object& loss_pos_weight)
      : program_(std::move(program)) {
    if (!PythonTensors::get().available()) return;
    parameters_ = all(parameters), state_ = all(state), counts_ = all(counts);
    options_ = optional(options), normalization_ = optional(normalization);
    loss_weight_ = optional(loss_weight), loss_pos_weight_ = optional(loss_pos_weight);
  }

  // Of images, targets, and the seeds of dropout or None: the loss; None where these are for the operator, since they
  // are no plain tensors or something follows what is called.
  pybind11::object call(pybind11::handle, PyObject* args, PyObject*) {
    const PythonTensors& torch = PythonTensors::get();
    if (PyTuple_GET_SIZE(args) != 3) fail("BoundStep: a call takes images, targets and seeds");
    const pybind11::handle seeds = PyTuple_GET_ITEM(args, 2);
    if (options_ && !torch.is_followed()) {
      const auto images = torch.plain(PyTuple_GET_ITEM(args, 0));
      const auto targets = images ? torch.plain(PyTuple_GET_ITEM(args, 1)) : std::nullopt;
      if (targets) {
        const std::optional<Tensor> drawn = optional(seeds);
        std::optional<Tensor> loss;
        {
          const pybind11::gil_scoped_release others_run;
          loss = network_train(*images, *targets, std::nullopt, parameters_, state_, *options_, counts_,
                               drawn, program_, normalization_, 0, loss_weight_, loss_pos_weight_);
        }
        return pybind11::object(torch.wrap({*loss})[0]);
      }
    }
    return pybind11::none();
  }

 private:
  static Tensors all(const pybind11::sequence& tensors) {
    Tensors result;
    for (const pybind11::handle tensor : tensors) result.push_back(PythonTensors::get().unwrap(tensor));
    return result;
  }
  static std::optional<Tensor> optional(pybind11::handle tensor) {
    if (tensor.is_none()) return std::nullopt;
    return PythonTensors::get().unwrap(tensor);
  }

  const std::string program_;
  Tensors parameters_, state_, counts_;
  std::optional<Tensor> options_;  // none where this torch gives no access to tensors
  std::optional<Tensor> normalization_, loss_weight_, loss_pos_weight_;
};

inline void define_bound_step(pybind11::module_& m) {
  using Object = const pybind11::object&;
  using Sequence = const pybind11::sequence&;
  pybind11::class_<BoundStep>(m, "BoundStep", callable<BoundStep>())
      .def(pybind11::init<Sequence, Sequence, Object, Sequence, std::string, Object, Object, Object>());
}

}  // namespace lenet_ext
