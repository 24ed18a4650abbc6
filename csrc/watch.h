// Watch: whether Python containers and attributes still hold the very objects that they held.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>
#include <vector>

namespace lenet_ext {

// A fused network must notice at each call what has become of the modules and of the optimizer that it
// belongs to. That is some hundred comparisons of pointers; in Python each takes longer than here all.
class Watch {
 public:
  // All that a dict or a list holds.
  void items(pybind11::object container) {
    Items watched{container, {}};
    if (PyDict_Check(container.ptr())) {
      PyObject *key, *value;
      for (Py_ssize_t place = 0; PyDict_Next(container.ptr(), &place, &key, &value);) {
        watched.held.push_back(pybind11::reinterpret_borrow<pybind11::object>(key));
        watched.held.push_back(pybind11::reinterpret_borrow<pybind11::object>(value));
      }
    } else {
      for (const pybind11::handle value : pybind11::cast<pybind11::list>(container)) {
        watched.held.push_back(pybind11::reinterpret_borrow<pybind11::object>(value));
      }
    }
    containers_.push_back(std::move(watched));
  }

  // What an attribute is.
  void attribute(pybind11::object object, pybind11::str name) {
    pybind11::object value = object.attr(name);
    // A field of a C structure is read without looking for it in the classes.
    const pybind11::object found = pybind11::getattr(pybind11::type::of(object), name, pybind11::none());
    const PyGetSetDef* field = Py_IS_TYPE(found.ptr(), &PyGetSetDescr_Type)
                                   ? reinterpret_cast<PyGetSetDescrObject*>(found.ptr())->d_getset
                                   : nullptr;
    attributes_.push_back({std::move(object), std::move(name), std::move(value), field});
  }

  // What another one watches.
  void also(std::shared_ptr<const Watch> other) { others_.push_back(std::move(other)); }

  // Never true where nothing is watched.
  bool unchanged() const {
    for (const Items& items : containers_) {
      if (!(PyDict_Check(items.container.ptr()) ? same_dict(items) : same_list(items))) return false;
    }
    for (const Attribute& attribute : attributes_) {
      if (!attribute.is_same()) return false;
    }
    for (const auto& other : others_) {
      if (!other->unchanged()) return false;
    }
    return !containers_.empty();
  }

  // For the garbage collector, since what is watched may lead to who watches.
  int traverse(visitproc visit, void* arg) const {
    for (const Items& items : containers_) {
      Py_VISIT(items.container.ptr());
      for (const pybind11::object& one : items.held) Py_VISIT(one.ptr());
    }
    for (const Attribute& one : attributes_) {
      Py_VISIT(one.object.ptr());
      Py_VISIT(one.value.ptr());
    }
    return 0;
  }
  void clear() {
    containers_.clear();
    attributes_.clear();
    others_.clear();
  }

 private:
  struct Items {
    pybind11::object container;
    std::vector<pybind11::object> held;  // of a dict keys and values in turn
  };
  struct Attribute {
    pybind11::object object;
    pybind11::str name;
    pybind11::object value;
    const PyGetSetDef* field;  // of the type, if it is one

    bool is_same() const {
      PyObject* const now = field == nullptr ? PyObject_GetAttr(object.ptr(), name.ptr())
                                             : field->get(object.ptr(), field->closure);
      if (now == nullptr) PyErr_Clear();
      Py_XDECREF(now);
      return now == value.ptr();
    }
  };

  static bool same_dict(const Items& items) {
    PyObject* const dict = items.container.ptr();
    if (static_cast<size_t>(PyDict_GET_SIZE(dict)) * 2 != items.held.size()) return false;
    const pybind11::object* held = items.held.data();
    PyObject *key, *value;
    for (Py_ssize_t place = 0; PyDict_Next(dict, &place, &key, &value); held += 2) {
      if (key != held[0].ptr() || value != held[1].ptr()) return false;
    }
    return true;
  }

  static bool same_list(const Items& items) {
    PyObject* const list = items.container.ptr();
    if (static_cast<size_t>(PyList_GET_SIZE(list)) != items.held.size()) return false;
    for (size_t i = 0; i < items.held.size(); ++i) {
      if (PyList_GET_ITEM(list, i) != items.held[i].ptr()) return false;
    }
    return true;
  }

  std::vector<Items> containers_;
  std::vector<Attribute> attributes_;
  std::vector<std::shared_ptr<const Watch>> others_;
};

// The Watch of a Python object; none before it is made and after it is gone, when the collector may come too.
inline Watch* watch_of(PyObject* self) {
  const auto* instance = reinterpret_cast<pybind11::detail::instance*>(self);
  return instance->simple_holder_constructed ? static_cast<Watch*>(instance->simple_value_holder[0])
                                             : nullptr;
}

inline void define_watch(pybind11::module_& m) {
  const pybind11::custom_type_setup slots([](PyHeapTypeObject* type) {
    type->ht_type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type->ht_type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
      Py_VISIT(Py_TYPE(self));
      const Watch* watch = watch_of(self);
      return watch == nullptr ? 0 : watch->traverse(visit, arg);
    };
    type->ht_type.tp_clear = [](PyObject* self) {
      if (Watch* watch = watch_of(self)) watch->clear();
      return 0;
    };
    // Not a method: to find and to call one takes longer than the comparisons.
    type->as_number.nb_bool = [](PyObject* self) { return int{watch_of(self)->unchanged()}; };
  });
  pybind11::class_<Watch, std::shared_ptr<Watch>>(m, "Watch", slots)
      .def(pybind11::init<>())
      .def("items", &Watch::items)
      .def("attribute", &Watch::attribute)
      .def("also", &Watch::also);
}

}  // namespace lenet_ext
