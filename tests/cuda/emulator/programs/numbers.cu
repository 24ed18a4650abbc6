// The kernels' arithmetic where no test of an operator reaches: sizes beyond 32 bits, every 16-bit number.
// Prints what is wrong.
#include <cmath>
#include <cstdio>
#include <initializer_list>

#include "cuda/contract/matrix.cuh"

namespace {

using namespace lenet_ext;
using namespace lenet_ext::cuda;

void expect(bool holds, const char* what, long long of) {
  if (!holds) std::printf("wrong: %s of %lld\n", what, of);
}

void check_divisions() {
  constexpr int64_t kBeyond32Bits = int64_t{1} << 32, kElements = int64_t{1} << 50;
  for (int64_t value :
       {int64_t{0}, int64_t{6}, kBeyond32Bits - 1, kBeyond32Bits, kBeyond32Bits + 1, kElements}) {
    for (int64_t divisor : {int64_t{1}, int64_t{7}, kBeyond32Bits - 1, kBeyond32Bits, kBeyond32Bits + 3}) {
      const Division d = divide(value, divisor);
      expect(d.quotient == value / divisor && d.remainder == value % divisor, "divide", value);
    }
    const Levels pixels{int64_t{32} * 32, 3, int64_t{32} * 32 * 3};
    expect(pixels.offset(value) == value / 1024 * 3072 + value % 1024 * 3, "offset", value);
    expect(pixels.together(value, 4) == (value % 1024 + 4 <= 1024), "together", value);
  }
  expect(divide(int32_t{2147483647}, int32_t{10}).quotient == 214748364, "divide", 2147483647);
}

// Widened and narrowed again it is the same; halfway to its neighbour, even wins.
template <class Stored>
void check_numbers(const char* name) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const Stored stored{static_cast<uint16_t>(bits)};
    const float value = widen(stored);
    Stored expected;
    from_compute(value, expected);
    expect(std::isnan(value) ? std::isnan(widen(narrow<Stored>(value))) : narrow<Stored>(value).bits == bits,
           name, bits);
    expect(narrow<Stored>(value).bits == expected.bits, name, bits);
    const float between = value + (widen(Stored{static_cast<uint16_t>(bits + 1)}) - value) / 2;
    from_compute(between, expected);
    expect(narrow<Stored>(between).bits == expected.bits, name, bits);
  }
}

}  // namespace

int main() {
  check_divisions();
  check_numbers<BFloat16>("bfloat16");
  check_numbers<Float16>("float16");
}
