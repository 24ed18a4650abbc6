#pragma once

#include <type_traits>
#include <utility>

namespace lenet_ext::cpu {

// body(integral_constant 0), ..., body(integral_constant N - 1), always unrolled: an array of vectors that is
// indexed so stays in registers, which a loop does not promise.
template <int N, class Body>
[[gnu::always_inline]] inline void unroll(const Body& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

}  // namespace lenet_ext::cpu
