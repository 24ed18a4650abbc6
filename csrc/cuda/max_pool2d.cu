// max_pool2d: the maximum of every window and, if asked for, its argmax, the tap kh * kernel_width + kw, with
// ATen's rules: start at -inf, a strictly greater value or a NaN wins, taps in scan order, padding never
// wins. Its gradient is a gather: each element of the input looks into the windows that hold it.
//
// One thread per output, or per element of the input, in the order of memory: neighbouring threads load and
// store neighbouring elements, in either format.
#include <cmath>

#include "cuda/common/launch.cuh"
#include "cuda/common/number.cuh"
#include "cuda/common/window.cuh"
#include "cuda/kernel_table.h"

namespace lenet_ext::cuda {
namespace {

// Blocks of the gather that an SM is to hold: left to itself, the compiler spills rather than take the 48
// registers that each thread then has.
constexpr int kGatherBlocks = 5;

struct Pool {
  Axis rows, columns;
  int64_t channels;  // side by side in memory: 1 if contiguous
  int64_t count;     // of outputs, or of elements of the input: one thread for each
};

// Where the element `index` of a dense tensor lies whose planes are of `height` x `width`.
struct Place {
  int64_t plane, channel;
  int32_t h, w;

  __device__ Place(int64_t index, const Pool& pool, int32_t height, int32_t width) : channel(0) {
    if (pool.channels > 1) {
      const Division d = divide(index, pool.channels);
      index = d.quotient, channel = d.remainder;
    }
    const Division row = divide(index, int64_t{width}), image = divide(row.quotient, int64_t{height});
    w = static_cast<int32_t>(row.remainder), h = static_cast<int32_t>(image.remainder);
    plane = image.quotient;
  }

  // The element (h, w) of the same plane and channel in a tensor of other sizes.
  __device__ int64_t offset(const Pool& pool, int32_t height, int32_t width, int32_t at_h,
                            int32_t at_w) const {
    return ((plane * height + at_h) * width + at_w) * pool.channels + channel;
  }
};

// The tap with which the window of output `out` meets `position`, or -1: it may step over it.
__device__ int32_t tap_at(const Axis& axis, int32_t position, int32_t out) {
  const int32_t distance = position + axis.pad - out * axis.stride;
  if (axis.dilation == 1) return distance;
  const auto d = divide(distance, axis.dilation);
  return d.remainder == 0 ? d.quotient : -1;
}

// kKernel: the size of a square kernel without padding or dilation whose windows end inside of the image, so
// that all its elements are loaded at once; or 0 for any.
template <int kKernel, class Stored>
__global__ __launch_bounds__(kElementThreads) void max_pool2d_outputs(Pool pool, const Stored* input,
                                                                      Stored* output, uint8_t* byte_argmax,
                                                                      int32_t* word_argmax) {
  const int64_t i = element_index();
  if (i >= pool.count) return;
  const Axis &y = pool.rows, &x = pool.columns;
  const Place place(i, pool, y.out_size, x.out_size);
  const int32_t top = place.h * y.stride - y.pad, left = place.w * x.stride - x.pad;
  const Span rows = kKernel > 0 ? Span{0, kKernel} : taps_inside(y, top);
  const Span columns = kKernel > 0 ? Span{0, kKernel} : taps_inside(x, left);
  const int32_t kernel_width = kKernel > 0 ? kKernel : x.kernel;
  const int32_t dilation_h = kKernel > 0 ? 1 : y.dilation, dilation_w = kKernel > 0 ? 1 : x.dilation;
  // The first tap stays if nothing is greater than -inf.
  ComputeType<Stored> best = -INFINITY;
  int32_t best_argmax = rows.begin * kernel_width + columns.begin;
#pragma unroll(kKernel > 0 ? kKernel : 1)
  for (int32_t kh = rows.begin; kh < rows.end; ++kh) {
    const Stored* row = input + place.offset(pool, y.size, x.size, top + kh * dilation_h, left);
#pragma unroll(kKernel > 0 ? kKernel : 1)
    for (int32_t kw = columns.begin; kw < columns.end; ++kw) {
      const auto value = widen(row[int64_t{kw} * dilation_w * pool.channels]);
      if (value > best || value != value) best = value, best_argmax = kh * kernel_width + kw;
    }
  }
  output[i] = narrow<Stored>(best);
  if (byte_argmax != nullptr) byte_argmax[i] = static_cast<uint8_t>(best_argmax);
  if (word_argmax != nullptr) word_argmax[i] = best_argmax;
}

// Windows in scan order, summed in the compute type. An argmax that is no tap of its window, or lies in the
// padding, is found by no element.
template <class Stored, class Index>
__global__ __launch_bounds__(kElementThreads,
                             kGatherBlocks) void max_pool2d_gather(Pool pool, const Stored* grad_output,
                                                                   const Index* argmax, Stored* grad_input) {
  const int64_t i = element_index();
  if (i >= pool.count) return;
  const Axis &y = pool.rows, &x = pool.columns;
  const Place place(i, pool, y.size, x.size);
  const Span rows = windows_around(y, place.h), columns = windows_around(x, place.w);
  ComputeType<Stored> sum = 0;
  for (int32_t oh = rows.begin; oh < rows.end; ++oh) {
    const int32_t kh = tap_at(y, place.h, oh);
    if (kh < 0) continue;
    for (int32_t ow = columns.begin; ow < columns.end; ++ow) {
      const int32_t kw = tap_at(x, place.w, ow);
      const int64_t offset = place.offset(pool, y.out_size, x.out_size, oh, ow);
      if (kw >= 0 && argmax[offset] == kh * x.kernel + kw) sum += widen(grad_output[offset]);
    }
  }
  grad_input[i] = narrow<Stored>(sum);
}

__device__ int64_t clamp(int64_t value, int64_t last) {
  return value < 0 ? 0 : value > last ? last : value;
}

// argmax comes from the caller: what lies outside of the plane is moved to its nearest position.
template <class Index>
__global__ __launch_bounds__(kElementThreads) void argmax_positions(Pool pool, const Index* argmax,
                                                                    int64_t* indices) {
  const int64_t i = element_index();
  if (i >= pool.count) return;
  const Axis &y = pool.rows, &x = pool.columns;
  const Place place(i, pool, y.out_size, x.out_size);
  const int64_t best = argmax[i], row = best / x.kernel, column = best % x.kernel;
  const int64_t h = place.h * y.stride - y.pad + row * y.dilation;
  const int64_t w = place.w * x.stride - x.pad + column * x.dilation;
  indices[i] = clamp(h, y.size - 1) * x.size + clamp(w, x.size - 1);
}

// One thread for each output, or else for each element of the input.
Pool make_pool(const char* op, const MaxPool2dShape& s, Format format, bool outputs) {
  check_positions(op, s.height + 2 * s.pad_h, s.width + 2 * s.pad_w);
  return {axis(s.height, s.out_height, s.kernel_height, s.stride_h, s.pad_h, s.dilation_h),
          axis(s.width, s.out_width, s.kernel_width, s.stride_w, s.pad_w, s.dilation_w),
          format == Format::kChannelsLast ? s.channels : 1,
          s.planes() * (outputs ? s.out_height * s.out_width : s.height * s.width)};
}

bool is_plain(const Axis& axis, int32_t kernel) {
  return axis.kernel == kernel && axis.pad == 0 && axis.dilation == 1 &&
         (axis.out_size - 1) * axis.stride + kernel <= axis.size;
}

// body(const uint8_t*) or body(const int32_t*).
template <class Body>
void with_argmax_type(const MaxPool2dShape& s, const void* argmax, const Body& body) {
  s.byte_argmax() ? body(static_cast<const uint8_t*>(argmax)) : body(static_cast<const int32_t*>(argmax));
}

template <class Stored>
void forward(const MaxPool2dShape& s, Format format, const void* input, void* output, void* argmax) {
  constexpr const char* kOp = "max_pool2d";
  const Pool pool = make_pool(kOp, s, format, true);
  const auto is_plain_square = [&](int32_t kernel) {
    return is_plain(pool.rows, kernel) && is_plain(pool.columns, kernel);
  };
  const auto kernel = is_plain_square(2)   ? &max_pool2d_outputs<2, Stored>
                      : is_plain_square(3) ? &max_pool2d_outputs<3, Stored>
                                           : &max_pool2d_outputs<0, Stored>;
  launch_elements(kOp, pool.count, kernel, pool, static_cast<const Stored*>(input),
                  static_cast<Stored*>(output), s.byte_argmax() ? static_cast<uint8_t*>(argmax) : nullptr,
                  s.byte_argmax() ? nullptr : static_cast<int32_t*>(argmax));
}

template <class Stored>
void input_grad(const MaxPool2dShape& s, Format format, const void* grad_output, const void* argmax,
                void* grad_input) {
  constexpr const char* kOp = "max_pool2d_input_grad";
  const Pool pool = make_pool(kOp, s, format, false);
  with_argmax_type(s, argmax, [&](const auto* typed_argmax) {
    using Index = std::remove_cvref_t<decltype(*typed_argmax)>;
    launch_elements(kOp, pool.count, &max_pool2d_gather<Stored, Index>, pool,
                    static_cast<const Stored*>(grad_output), typed_argmax, static_cast<Stored*>(grad_input));
  });
}

void max_pool2d_indices(const MaxPool2dShape& s, Format format, const void* argmax, int64_t* indices) {
  constexpr const char* kOp = "max_pool2d_indices";
  const Pool pool = make_pool(kOp, s, format, true);
  with_argmax_type(s, argmax, [&](const auto* typed_argmax) {
    using Index = std::remove_cvref_t<decltype(*typed_argmax)>;
    launch_elements(kOp, pool.count, &argmax_positions<Index>, pool, typed_argmax, indices);
  });
}

const Entry entry([]<class Stored>(std::type_identity<Stored>, TypedKernels& typed, Kernels& all) {
  typed.max_pool2d = {.forward = &forward<Stored>, .input_grad = &input_grad<Stored>};
  all.max_pool2d_indices = &max_pool2d_indices;
});

}  // namespace
}  // namespace lenet_ext::cuda
