// Loads and stores, whole and partial, of every stored type.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstdlib>

#include "check.h"
#include "dtype.h"
#include "formats.h"

namespace lenet_ext::simd {

// Where the process may neither read nor write any further.
inline char* edge_of_memory() {
  static char* const edge = [] {
    const size_t page = sysconf(_SC_PAGESIZE);
    void* const pages = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char* const second = static_cast<char*>(pages) + page;
    if (pages == MAP_FAILED || mprotect(second, page, PROT_NONE) != 0) std::abort();
    return second;
  }();
  return edge;
}

// Place for `count` elements just before that edge, the same memory at each call.
template <class T>
T* before_edge(int count) {
  return reinterpret_cast<T*>(edge_of_memory()) - count;
}

// load and load_partial of S::width elements, of each of which expected(element) is to be read.
template <class S, class Stored, class Expected>
void expect_loads(const Stored* stored, const Expected& expected) {
  for (int i = 0; i < S::width; ++i) {
    expect_bits_or_nan("load", i, elements_of<S>(S::load(stored))[i], expected(stored[i]));
  }
  for (int n = 0; n <= S::width; ++n) {
    auto* const some = before_edge<Stored>(n);
    std::memcpy(some, stored, n * sizeof(Stored));
    const Elements<S> loaded = elements_of<S>(S::load_partial(some, n));
    for (int i = 0; i < S::width; ++i) {
      const typename S::Scalar nothing = 0;
      expect_bits_or_nan("load_partial", i, loaded[i], i < n ? expected(stored[i]) : nothing);
    }
  }
}

// store and store_partial, where accepts(stored, value) tells whether a value may be stored so.
template <class S, class Stored, class Accepts>
void expect_stores(const Elements<S>& values, const Accepts& accepts) {
  const auto expect = [&](const char* what, int i, Stored stored) {
    check(accepts(stored, values[i]), what, i, bits_of(stored), bits_of(values[i]));
  };
  auto* const whole = before_edge<Stored>(S::width);
  S::store(whole, vector_of<S>(values));
  for (int i = 0; i < S::width; ++i) expect("store", i, whole[i]);
  for (int n = 0; n <= S::width; ++n) {
    auto* const some = before_edge<Stored>(n);
    S::store_partial(some, vector_of<S>(values), n);
    for (int i = 0; i < n; ++i) expect("store_partial", i, some[i]);
    Stored around[S::width], before[S::width];
    std::memset(around, 0x5a, sizeof(around));
    std::memcpy(before, around, sizeof(around));
    S::store_partial(around, vector_of<S>(values), n);
    for (int i = n; i < S::width; ++i) expect_bits("store_partial behind the end", i, around[i], before[i]);
  }
}

template <class S>
void test_own_type() {
  using T = typename S::Scalar;
  for_each_tuple<S, 1>([](const auto& operands) {
    const Elements<S>& values = operands[0];
    expect_loads<S>(values.data(), [](T stored) { return stored; });
    expect_stores<S, T>(values, [](T stored, T value) { return bits_of(stored) == bits_of(value); });
  });
}

template <class S, class Stored>
void test_16_bits() {
  using Format = FormatOf<Stored>;
  for (int first = 0; first < 1 << 16; first += S::width) {
    Stored stored[S::width];
    for (int i = 0; i < S::width; ++i) stored[i].bits = static_cast<uint16_t>(first + i);
    expect_loads<S>(stored, [](Stored one) { return Format::decode(one.bits); });
  }
  std::vector<float> values = Format::values_around();
  // NaNs, of which the last two would become infinite if they were cut off.
  for (uint32_t bits : {0x7fc00000u, 0xffc12345u, 0x7fffffffu, 0x7f800001u, 0xff800001u}) {
    values.push_back(std::bit_cast<float>(bits));
  }
  values.resize((values.size() + S::width - 1) / S::width * S::width);
  for (size_t first = 0; first < values.size(); first += S::width) {
    Elements<S> some;
    std::copy_n(values.begin() + first, S::width, some.begin());
    expect_stores<S, Stored>(some, [](Stored stored, float value) {
      if (std::isnan(value)) return Format::is_nan(stored.bits) && (stored.bits & Format::kQuiet) != 0;
      return stored.bits == Format::encode(value);
    });
  }
}

// Each set of elements in memory that ends with the last of them, and begins with the first.
template <class S>
void test_masks() {
  using T = typename S::Scalar;
  for (uint32_t bits = 0; bits < 1u << S::width; ++bits) {
    const auto mask = S::mask_of(bits);
    const int begin = bits == 0 ? 0 : std::countr_zero(bits), end = std::bit_width(bits);
    auto* const elements = before_edge<T>(end - begin);
    for (int i = begin; i < end; ++i) elements[i - begin] = static_cast<T>(i + 1);
    const Elements<S> loaded = elements_of<S>(S::load_masked(elements - begin, mask));
    for (int i = 0; i < S::width; ++i) {
      expect_bits("load_masked", i, loaded[i], static_cast<T>((bits >> i & 1) != 0 ? i + 1 : 0));
    }
  }
}

template <class S>
void test_memory() {
  test_own_type<S>();
  test_masks<S>();
  if constexpr (std::is_same_v<typename S::Scalar, float>) {
    test_16_bits<S, BFloat16>();
    test_16_bits<S, Float16>();
  }
}

}  // namespace lenet_ext::simd
