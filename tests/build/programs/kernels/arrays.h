// What the kernels read and write: arrays of exactly the size that a kernel may touch, and results to
// compare.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "dtype.h"

namespace lenet_ext {

inline constexpr auto kElementBytes =
    by_dtype([]<class Stored>() { return static_cast<int64_t>(sizeof(Stored)); });

// Numbers of several magnitudes that every dtype holds, the same on every call. Sums of their products hardly
// ever tie: rounding must not decide where a maximum lies.
inline constexpr auto kFill = by_dtype([]<class Stored>() {
  return +[](void* data, int64_t count, uint32_t state) {
    for (int64_t i = 0; i < count; ++i) {
      state = state * 1664525u + 1013904223u;
      const int number = static_cast<int>(state >> 24) - 128, magnitude = (state >> 20) % 4;
      from_compute(std::ldexp(static_cast<ComputeType<Stored>>(number), -7 - magnitude),
                   static_cast<Stored*>(data)[i]);
    }
  };
});

inline constexpr auto kElement = by_dtype([]<class Stored>() {
  return +[](const void* data, int64_t i) {
    return static_cast<double>(to_compute(static_cast<const Stored*>(data)[i]));
  };
});

// malloc and no vector: what a kernel fails to write stays uninitialised, for valgrind to see.
struct Array {
  std::optional<DType> dtype;  // none: whole numbers
  int64_t bytes;
  std::unique_ptr<void, void (*)(void*)> data;

  explicit Array(int64_t size) : bytes(size), data(std::malloc(size), &std::free) {}
  Array(DType type, int64_t count) : Array(count * kElementBytes[type]) { dtype = type; }
  template <class T = void>
  T* get() const {
    return static_cast<T*>(data.get());
  }
};

inline Array numbers(DType dtype, int64_t count, uint32_t seed) {
  Array array(dtype, count);
  kFill[dtype](array.get(), count, seed);
  return array;
}

// What an array held.
struct Result {
  std::optional<DType> dtype;
  std::vector<unsigned char> bytes;

  bool operator==(const Result&) const = default;

  // The largest difference, relative to the largest value; of whole numbers infinite.
  double distance(const Result& other) const {
    if (*this == other) return 0;
    if (!dtype) return std::numeric_limits<double>::infinity();
    double difference = 0, largest = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(bytes.size()) / kElementBytes[*dtype]; ++i) {
      const double value = kElement[*dtype](bytes.data(), i),
                   wanted = kElement[*dtype](other.bytes.data(), i);
      if (!std::isfinite(value)) return std::numeric_limits<double>::infinity();
      difference = std::max(difference, std::fabs(value - wanted));
      largest = std::max(largest, std::fabs(wanted));
    }
    return difference / largest;
  }
};
using Results = std::vector<Result>;

}  // namespace lenet_ext
