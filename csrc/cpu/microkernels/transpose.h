// Copies between layouts, with conversion between the stored and the compute type.
#pragma once

#include <algorithm>

#include "cpu/microkernels/zip.h"
#include "dtype.h"

namespace lenet_ext::cpu {

// destination[i] = source[i]
template <class S, class From, class To>
void copy_row(const From* source, To* destination, int64_t count) {
  int64_t i = 0;
  for (; i + S::width <= count; i += S::width) S::store(destination + i, S::load(source + i));
  const int rest = static_cast<int>(count - i);
  if (rest > 0) S::store_partial(destination + i, S::load_partial(source + i, rest), rest);
}

// sum[i] += row[i]
template <class S>
void add_row(const typename S::Scalar* row, typename S::Scalar* sum, int64_t count) {
  int64_t i = 0;
  for (; i + S::width <= count; i += S::width) S::store(sum + i, S::add(S::load(sum + i), S::load(row + i)));
  const int rest = static_cast<int>(count - i);
  if (rest > 0) {
    S::store_partial(sum + i, S::add(S::load_partial(sum + i, rest), S::load_partial(row + i, rest)), rest);
  }
}

// destination[i] = source[2 * i]; nothing behind the last of these is read.
template <class S, class From, class To>
void copy_every_second(const From* source, To* destination, int64_t count) {
  int64_t i = 0;
  for (; i + S::width < count; i += S::width) {
    S::store(destination + i, S::even(S::load(source + 2 * i), S::load(source + 2 * i + S::width)));
  }
  const int rest = static_cast<int>(count - i);
  if (rest <= 0) return;
  const int last = 2 * rest - 1;
  const auto low = S::load_partial(source + 2 * i, std::min(last, S::width));
  const auto high = last > S::width ? S::load_partial(source + 2 * i + S::width, last - S::width) : S::zero();
  S::store_partial(destination + i, S::even(low, high), rest);
}

template <class From, class To>
void copy_strided(const From* source, int64_t source_stride, To* destination, int64_t destination_stride,
                  int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    from_compute(to_compute(source[i * source_stride]), destination[i * destination_stride]);
  }
}

// destination[i * rows + row] = source[row * source_stride + i]: a transposition for few rows; returns whether there
// is a way for so few.
template <class S, class From, class To>
bool interleave(const From* source, int64_t source_stride, To* destination, int64_t rows, int64_t count) {
  if (rows == 1) return copy_row<S>(source, destination, count), true;
  if constexpr (requires { &S::interleave3; } && std::is_same_v<To, typename S::Scalar>) {
    const From *second = source + source_stride, *third = second + source_stride;
    int64_t i = 0;
    for (; rows == 3 && i + S::width <= count; i += S::width) {
      S::interleave3(S::load(source + i), S::load(second + i), S::load(third + i), destination + 3 * i);
    }
    source += i, destination += rows * i, count -= i;
    if (count == 0) return true;
  }
  return with_few_rows<S>(rows, [&]<int kRows>(std::integral_constant<int, kRows>) {
    zip_rows<S, kRows>(source, source_stride, destination, static_cast<int>(rows), count);
  });
}

// destination[column * destination_stride + row] = source[row * source_stride + column]
template <class S, class From, class To>
void transpose(const From* source, int64_t source_stride, To* destination, int64_t destination_stride,
               int64_t rows, int64_t columns) {
  constexpr int width = S::width;
  if (destination_stride == rows && interleave<S>(source, source_stride, destination, rows, columns)) return;
  const auto unzip = [&]<int kRows>(std::integral_constant<int, kRows>) {
    unzip_rows<S, kRows>(source, destination, destination_stride, static_cast<int>(columns), rows);
  };
  if (source_stride == columns && with_few_rows<S>(columns, unzip)) return;
  for (int64_t r = 0; r < rows; r += width) {
    const int height = static_cast<int>(std::min<int64_t>(width, rows - r));
    for (int64_t c = 0; c < columns; c += width) {
      const int breadth = static_cast<int>(std::min<int64_t>(width, columns - c));
      const From* from = source + r * source_stride + c;
      To* to = destination + c * destination_stride + r;
      typename S::Vector block[width];
      if (height == width && breadth == width) {
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) block[i] = S::load(from + i * source_stride);
        S::transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) S::store(to + i * destination_stride, block[i]);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) {
          block[i] = i < height ? S::load_partial(from + i * source_stride, breadth) : S::zero();
        }
        S::transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) {
          if (i < breadth) S::store_partial(to + i * destination_stride, block[i], height);
        }
      }
    }
  }
}

}  // namespace lenet_ext::cpu
