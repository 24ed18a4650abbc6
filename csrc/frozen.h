// FrozenNetwork: a callable for Python that runs a frozen network, with as little between the caller and the
// kernels as there can be: an operator of torch takes longer to be found than a LeNet layer to be computed.
//
// The Python class that derives from it (lenet_ext/engine/frozen.py) has methods for what is rare: _admit(sizes),
// which raises for images that the network was not read for, _unusual(images) for what is neither a plain tensor
// nor an array, _refuse_array(images), and _collected(outputs) where it returns no single tensor.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "callable.h"
#include "ops/frozen.h"
#include "python_arrays.h"

namespace lenet_ext {

class FrozenNetwork {
 public:
  // dtype: a name of torch's. parameters, normalization: see FrozenModel. single: whether a call returns the
  // first output and no collection.
  FrozenNetwork(std::string program, const std::string& dtype, const pybind11::sequence& parameters,
                const pybind11::object& normalization, bool single)
      : single_(single) {
    const PythonTensors& torch = PythonTensors::get();
    const size_t number = std::ranges::find(kNames, dtype, &TypeName::torch) - std::begin(kNames);
    if (number == std::size(kNames)) fail("freeze: dtype must be that of a tensor of numbers, got ", dtype);
    name_ = &kNames[number];
    if (!torch.available()) return;  // the operator computes it then
    Tensors tensors;
    for (const pybind11::handle parameter : parameters) tensors.push_back(torch.unwrap(parameter));
    std::optional<Tensor> scales;
    if (!normalization.is_none()) scales = torch.unwrap(normalization);
    model_ = std::make_unique<FrozenModel>(std::move(program), static_cast<DType>(number), std::move(tensors),
                                           std::move(scales));
  }

  pybind11::object call(pybind11::handle self, PyObject* args, PyObject* kwargs) {
    const Py_ssize_t named = kwargs == nullptr ? 0 : PyDict_GET_SIZE(kwargs);
    PyObject* images = nullptr;
    if (PyTuple_GET_SIZE(args) == 1 && named == 0) images = PyTuple_GET_ITEM(args, 0);
    if (PyTuple_GET_SIZE(args) == 0 && named == 1) images = PyDict_GetItemString(kwargs, "images");
    if (images == nullptr) throw pybind11::type_error("FrozenNet: a call takes one argument, images");
    return of(self, images);
  }

 private:
  pybind11::object of(pybind11::handle self, pybind11::handle images) {
    const PythonTensors& torch = PythonTensors::get();
    if (model_ && Numpy::is_array(images)) return on_array(self, images);
    if (!model_ || torch.is_followed()) return unusual(self, images);
    const auto tensor = torch.plain(images);
    if (!tensor || tensor->scalar_type() != model_->image_type() || tensor->dim() < 2) {
      return unusual(self, images);
    }
    return on_tensor(self, *tensor);
  }

  // numpy: the dtype of an array; null where it has none. format: see ArrayView.
  struct TypeName {
    const char *torch, *numpy, *format;
  };
  // By DType.
  static constexpr TypeName kNames[] = {{"float32", "float32", "f"},
                                        {"float64", "float64", "d"},
                                        {"bfloat16", nullptr, nullptr},
                                        {"float16", "float16", "e"}};
  static_assert(std::size(kNames) == StoredTypes::kCount);

  static pybind11::object unusual(pybind11::handle self, pybind11::handle images) {
    return self.attr("_unusual")(images);
  }

  pybind11::object on_tensor(pybind11::handle self, const Tensor& images) {
    const Sizes sizes = sizes_of(images);
    const auto sized = sized_for(self, sizes);
    Tensors outputs;
    std::vector<void*> pointers;
    for (const NetworkOutput& output : sized->network->outputs) {
      outputs.push_back(empty_of(with_batch(sizes[0], output), kScalarTypes[model_->dtype()], images));
      pointers.push_back(outputs.back().mutable_data_ptr());
    }
    {
      const pybind11::gil_scoped_release others_run;
      const Tensor whole = dense(images);
      model_->run(*sized, sizes[0], whole.const_data_ptr(), pointers.data());
    }
    return collected(self, PythonTensors::get().wrap(outputs));
  }

  pybind11::object on_array(pybind11::handle self, pybind11::handle images) {
    if (name_->numpy == nullptr) return self.attr("_refuse_array")(images);
    std::optional<ArrayView> view;
    try {
      view.emplace(images, /*writable=*/false);
    } catch (const pybind11::error_already_set&) {  // dtypes that buffers have no name for
      return self.attr("_refuse_array")(images);
    }
    if (std::strcmp(view->format(), model_->takes_bytes() ? "B" : name_->format) != 0) {
      return self.attr("_refuse_array")(images);
    }
    if (!view->is_dense()) return on_array(self, Numpy::get().dense(images));
    const SizeList sizes = view->sizes();
    if (sizes.size() < 2) return self.attr("_refuse_array")(images);
    const auto sized = sized_for(self, sizes);
    pybind11::list outputs;
    std::vector<void*> pointers;
    for (const NetworkOutput& output : sized->network->outputs) {
      const SizeList shape = with_batch(sizes[0], output);
      const pybind11::object array = Numpy::get().empty(tuple_of(shape), name_->numpy);
      pointers.push_back(ArrayView(array, /*writable=*/true).data());
      outputs.append(array);
    }
    {
      const pybind11::gil_scoped_release others_run;
      model_->run(*sized, sizes[0], view->data(), pointers.data());
    }
    return collected(self, outputs);
  }

  // sizes: (N, ...).
  std::shared_ptr<const SizedFrozen> sized_for(pybind11::handle self, Sizes sizes) {
    auto sized = model_->find(sizes.subspan(1));
    if (!sized) {
      self.attr("_admit")(tuple_of(sizes));
      sized = model_->add(sizes.subspan(1));
    }
    model_->check(*sized, sizes[0]);
    return sized;
  }

  pybind11::object collected(pybind11::handle self, const pybind11::list& outputs) const {
    return single_ ? pybind11::object(outputs[0]) : self.attr("_collected")(outputs);
  }

  static SizeList with_batch(int64_t batch, const NetworkOutput& output) {
    SizeList sizes{batch};
    sizes.insert(sizes.end(), output.sizes.begin(), output.sizes.end());
    return sizes;
  }
  static pybind11::tuple tuple_of(Sizes sizes) {
    pybind11::tuple result(sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i) result[i] = sizes[i];
    return result;
  }

  const bool single_;
  const TypeName* name_;
  std::unique_ptr<FrozenModel> model_;  // null where this torch gives no access to tensors
};

inline void define_frozen(pybind11::module_& m) {
  pybind11::class_<FrozenNetwork>(m, "FrozenNetwork", callable<FrozenNetwork>())
      .def(pybind11::init<std::string, const std::string&, const pybind11::sequence&, const pybind11::object&,
                          bool>());
}

}  // namespace lenet_ext
