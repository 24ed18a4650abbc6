// Loops over arrays in vectors.
#pragma once

#include <cstdint>

namespace lenet_ext::cpu {

// body(i, load, store) for vectors of `count` values from i on, with what reads and writes such a vector: a
// whole one, or the rest.
template <class S, class Body>
void for_each_lanes(int64_t count, const Body& body) {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  int64_t i = 0;
  for (; i + S::width <= count; i += S::width) {
    body(i, [](const T* p) { return S::load(p); }, [](T* p, V v) { S::store(p, v); });
  }
  const auto rest = static_cast<int>(count - i);
  if (rest == 0) return;
  body(
      i, [rest](const T* p) { return S::load_partial(p, rest); },
      [rest](T* p, V v) { S::store_partial(p, v, rest); });
}

}  // namespace lenet_ext::cpu
