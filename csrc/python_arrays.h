// Tensors of torch and arrays of numpy as Python objects, for functions that are called without the dispatcher.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "ops/network_tensors.h"

namespace lenet_ext {

// Which is kept for ever.
inline PyTypeObject* type_of(pybind11::object type) {
  return reinterpret_cast<PyTypeObject*>(type.release().ptr());
}

// What torch offers to compiled code that holds a Python object: inductor's own way, which torch's stable
// interface has no other for. Where a torch has it no longer, `available` is false.
class PythonTensors {
 public:
  static const PythonTensors& get() {
    static const auto* const one = new PythonTensors();  // outlives the interpreter
    return *one;
  }

  bool available() const { return static_cast<bool>(give_); }

  // Whether something follows or changes the operators that are called: transforms of torch.func, tangents, dispatch
  // modes, autocast, the profiler.
  bool is_followed() const {
    if (transforms_().ptr() == Py_True || autocast_().ptr() == Py_True) return true;
    if (profiler_().ptr() == Py_True || PyObject_IsTrue(modes_().ptr()) != 0) return true;
    PyObject* const level = PyDict_GetItemWithError(tangents_.ptr(), level_.ptr());
    return level == nullptr || PyLong_AsLong(level) >= 0;
  }

  // None for what is no tensor in the memory of the CPU with plain values, or is one that autograd follows.
  std::optional<Tensor> plain(pybind11::handle object) const {
    const PyTypeObject* const type = Py_TYPE(object.ptr());
    if (type != tensor_type_ && type != parameter_type_) return std::nullopt;
    Tensor tensor = unwrap(object);
    const auto dtype = std::ranges::find(dtypes_, dtype_number(tensor));
    if (dtype == dtypes_.end()) return std::nullopt;
    if (dtype < dtypes_.begin() + kFloating) {
      if (object.attr(requires_grad_).ptr() == Py_True && grad_enabled_().ptr() == Py_True)
        return std::nullopt;
      if (call_method(object, is_negative_).ptr() == Py_True) return std::nullopt;
    }
    int32_t device, layout;
    check_torch("tell a device", aoti_torch_get_device_type(tensor.get(), &device));
    check_torch("tell a layout", aoti_torch_get_layout(tensor.get(), &layout));
    if (device != aoti_torch_device_type_cpu() || layout != aoti_torch_layout_strided()) return std::nullopt;
    if (tensor.numel() > 0 && tensor.const_data_ptr() == nullptr) return std::nullopt;
    return tensor;
  }

  Tensor unwrap(pybind11::handle object) const {
    const pybind11::object capsule = give_(object);
    return Tensor(static_cast<AtenTensorHandle>(PyCapsule_GetPointer(capsule.ptr(), nullptr)));
  }

  // A list. Its handles are freed by torch's function for several, and not by the one for a single tensor.
  pybind11::list wrap(const Tensors& tensors) const {
    pybind11::list capsules(tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      AtenTensorHandle handle;  // which the Python object takes over
      check_torch("copy a handle", aoti_torch_new_tensor_handle(tensors[i].get(), &handle));
      capsules[i] = pybind11::capsule(static_cast<const void*>(handle));
    }
    return take_(capsules);
  }

 private:
  PythonTensors() {
    namespace py = pybind11;
    const py::module_ torch = py::module_::import("torch");
    const py::object c = torch.attr("_C");
    tensor_type_ = type_of(torch.attr("Tensor"));
    parameter_type_ = type_of(torch.attr("nn").attr("Parameter"));
    grad_enabled_ = torch.attr("is_grad_enabled");
    requires_grad_ = py::reinterpret_steal<py::object>(PyUnicode_InternFromString("requires_grad"));
    is_negative_ = py::reinterpret_steal<py::object>(PyUnicode_InternFromString("is_neg"));
    level_ = py::reinterpret_steal<py::object>(PyUnicode_InternFromString("_current_level"));
    try {
      transforms_ = c.attr("_are_functorch_transforms_active");
      modes_ = c.attr("_len_torch_dispatch_stack");
      autocast_ = c.attr("_is_any_autocast_enabled");
      profiler_ = torch.attr("autograd").attr("_profiler_enabled");
      tangents_ = torch.attr("autograd").attr("forward_ad").attr("__dict__");
      const py::object inductor = c.attr("_aoti");
      take_ = inductor.attr("alloc_tensors_by_stealing_from_void_ptrs");
      give_ = inductor.attr("unsafe_alloc_void_ptr_from_tensor");
    } catch (const py::error_already_set& error) {
      if (!error.matches(PyExc_AttributeError)) throw;
      give_ = py::object();
    }
  }

  static pybind11::object call_method(pybind11::handle object, const pybind11::object& name) {
    PyObject* const result = PyObject_CallMethodNoArgs(object.ptr(), name.ptr());
    if (result == nullptr) throw pybind11::error_already_set();
    return pybind11::reinterpret_steal<pybind11::object>(result);
  }

  // Of images and targets, first those that may require a gradient. Of quantized tensors even to ask for the dtype
  // fails.
  static constexpr int kFloating = 4;
  const std::array<int32_t, 6> dtypes_ = {aoti_torch_dtype_float32(),  aoti_torch_dtype_float64(),
                                          aoti_torch_dtype_bfloat16(), aoti_torch_dtype_float16(),
                                          aoti_torch_dtype_uint8(),    aoti_torch_dtype_int64()};
  PyTypeObject *tensor_type_, *parameter_type_;
  pybind11::object give_, take_, transforms_, modes_, autocast_, profiler_, tangents_, grad_enabled_;
  pybind11::object requires_grad_, is_negative_, level_;
};

// numpy, once it has been imported.
class Numpy {
 public:
  // Whether it is an array; of its subclasses only those that say nothing more.
  static bool is_array(pybind11::handle object) {
    static const Numpy* numpy = nullptr;
    if (numpy == nullptr) {
      PyObject* const modules = PyImport_GetModuleDict();  // not imported for the question alone
      if (PyDict_GetItemString(modules, "numpy") == nullptr) return false;
      numpy = &get();
    }
    return Py_IS_TYPE(object.ptr(), numpy->array_) || Py_IS_TYPE(object.ptr(), numpy->memmap_);
  }
  static const Numpy& get() {
    static const auto* const one = new Numpy();
    return *one;
  }

  // The array itself or a copy, in whose memory one value lies behind the other.
  pybind11::object dense(pybind11::handle array) const {
    return require_(array, pybind11::none(), pybind11::make_tuple("C", "A"));
  }
  pybind11::object empty(const pybind11::tuple& sizes, const char* dtype) const {
    return empty_(sizes, dtype);
  }

 private:
  Numpy() {
    const pybind11::module_ numpy = pybind11::module_::import("numpy");
    array_ = type_of(numpy.attr("ndarray"));
    memmap_ = type_of(numpy.attr("memmap"));
    empty_ = numpy.attr("empty");
    require_ = numpy.attr("require");
  }

  PyTypeObject *array_, *memmap_;
  pybind11::object empty_, require_;
};

// The memory of an array as long as this lives.
class ArrayView {
 public:
  ArrayView(pybind11::handle array, bool writable) {
    const int flags = PyBUF_FORMAT | PyBUF_STRIDES | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(array.ptr(), &view_, flags) != 0) throw pybind11::error_already_set();
  }
  ArrayView(const ArrayView&) = delete;
  ArrayView& operator=(const ArrayView&) = delete;
  ~ArrayView() { PyBuffer_Release(&view_); }

  // As the struct module spells it: "f" is float32 in the order of bytes of this machine. Before it numpy says of
  // some arrays that they are not aligned.
  const char* format() const { return view_.format + (view_.format[0] == '=' || view_.format[0] == '^'); }
  bool is_dense() const {
    return PyBuffer_IsContiguous(&view_, 'C') != 0 &&
           reinterpret_cast<uintptr_t>(view_.buf) % static_cast<uintptr_t>(view_.itemsize) == 0;
  }
  SizeList sizes() const { return {view_.shape, view_.shape + view_.ndim}; }
  void* data() const { return view_.buf; }

 private:
  Py_buffer view_;
};

}  // namespace lenet_ext
