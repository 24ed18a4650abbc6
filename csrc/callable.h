// Objects that Python calls without a search for a method and a match of arguments, which take a good part of a
// microsecond.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>

#include "shapes.h"

namespace lenet_ext {

// tp_call of a class that pybind11 binds: object.call(self, args, kwargs).
template <class T>
PyObject* call_object(PyObject* self, PyObject* args, PyObject* kwargs) {
  try {
    const auto* const instance = reinterpret_cast<pybind11::detail::instance*>(self);
    if (!instance->simple_holder_constructed) fail(Py_TYPE(self)->tp_name, ": it was not initialized");
    return static_cast<T*>(instance->simple_value_holder[0])->call(self, args, kwargs).release().ptr();
  } catch (pybind11::error_already_set& error) {
    error.restore();
  } catch (const pybind11::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::out_of_range& error) {
    PyErr_SetString(PyExc_IndexError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

template <class T>
pybind11::custom_type_setup callable() {
  return pybind11::custom_type_setup([](PyHeapTypeObject* type) { type->ht_type.tp_call = &call_object<T>; });
}

}  // namespace lenet_ext
