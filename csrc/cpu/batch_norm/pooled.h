// The gradients of a batch normalization that 2x2 windows follow: of what the pool passes on, which is spread
// over the windows in registers.
#pragma once

#include <type_traits>

#include "cpu/batch_norm/normalize.h"
#include "cpu/max_pool2d/grad_contiguous.h"

namespace lenet_ext::cpu {

// Whether 2x2 windows tile the planes without rest.
inline bool pools_in_pairs(const MaxPool2dShape& pool) {
  return windows_tile_image(pool) && pool.kernel_height == 2 && pool.kernel_width == 2 &&
         pool.height == 2 * pool.out_height && pool.width == 2 * pool.out_width;
}

// body(way, lanes, g) for all vectors of a plane, with the gradient there: of a window that of its maximum,
// zero elsewhere. way: which of the four vectors that come of one of the pooled gradient.
template <class S, class T, class Body>
void for_each_unpooled(const MaxPool2dShape& pool, const T* grad, const uint8_t* argmax, const Body& body) {
  using V = typename S::Vector;
  const auto windows = [&]<bool kFull>(int64_t oh, int64_t ow, int n, std::bool_constant<kFull>) {
    const int64_t from = oh * pool.out_width + ow;
    const V g = load_first<S, kFull>(grad + from, n);
    const V best = load_argmax<S>(argmax + from, n);
    for (int kh = 0; kh < 2; ++kh) {
      const int64_t to = (2 * oh + kh) * pool.width + 2 * ow;
      const V left = S::select(S::equal(best, S::broadcast(T(2 * kh))), g, S::zero());
      const V right = S::select(S::equal(best, S::broadcast(T(2 * kh + 1))), g, S::zero());
      body(2 * kh, Lanes<S, kFull>{to, std::min(2 * n, S::width)}, S::interleave_low(left, right));
      if (2 * n <= S::width) continue;
      body(2 * kh + 1, Lanes<S, kFull>{to + S::width, 2 * n - S::width}, S::interleave_high(left, right));
    }
  };
  for (int64_t oh = 0; oh < pool.out_height; ++oh) {
    int64_t ow = 0;
    for (; ow + S::width <= pool.out_width; ow += S::width) windows(oh, ow, S::width, std::true_type{});
    if (ow < pool.out_width) windows(oh, ow, static_cast<int>(pool.out_width - ow), std::false_type{});
  }
}

// As add_normalize_sums, where g is the gradient behind the pool, whose planes are those of the shape.
template <class S, class T = typename S::Scalar>
void add_pooled_sums(const BatchNormShape& s, const MaxPool2dShape& pool, int64_t images,
                     const Normalization<T>& by, const T* x, const T* g, const uint8_t* argmax, double* sums,
                     double* sums_of_products) {
  using V = typename S::Vector;
  const int64_t pooled = pool.out_height * pool.out_width;
  for (int64_t plane = 0; plane < images * s.channels; ++plane) {
    const int64_t c = plane % s.channels;
    const V mean = S::broadcast(by.mean[c]), inv_std = S::broadcast(by.inv_std[c]);
    const V shift = S::broadcast(by.low_shift(c));
    const T* const x_plane = x + plane * s.plane;
    V sum[4] = {}, product[4] = {};
    int pending = 0;
    const auto flush = [&] {
      const auto total = [](V(&of)[4]) {
        return S::reduce_add(S::add(S::add(of[0], of[1]), S::add(of[2], of[3])));
      };
      sums[c] += total(sum), sums_of_products[c] += total(product);
      for (int way = 0; way < 4; ++way) sum[way] = product[way] = S::zero();
      pending = 0;
    };
    for_each_unpooled<S>(pool, g + plane * pooled, argmax + plane * pooled, [&](int way, auto lanes, V grad) {
      const V xhat = S::fma(S::sub(lanes.load(x_plane), mean), inv_std, shift);
      sum[way] = S::add(sum[way], grad);
      product[way] = S::fma(grad, xhat, product[way]);
      if (++pending == kFlushedTerms) flush();
    });
    flush();
  }
}

// As batch_normalize_grad, of the gradient behind the pool.
template <class S, class T = typename S::Scalar>
void batch_normalize_pooled_grad(const BatchNormShape& s, const MaxPool2dShape& pool, int64_t images,
                                 const Normalization<T>& by, const T* grad_means, const T* product_means,
                                 const T* x, const T* g, const uint8_t* argmax, T* grad_x) {
  using V = typename S::Vector;
  const int64_t pooled = pool.out_height * pool.out_width;
  for (int64_t plane = 0; plane < images * s.channels; ++plane) {
    const int64_t c = plane % s.channels;
    const T slope_of = by.inv_std[c] * product_means[c];
    const V mean = S::broadcast(by.mean[c]), scale = S::broadcast(by.scale(c)),
            slope = S::broadcast(slope_of);
    const V shift = S::broadcast(grad_means[c] - by.low(c) * slope_of);
    const T* const x_plane = x + plane * s.plane;
    T* const to = grad_x + plane * s.plane;
    for_each_unpooled<S>(pool, g + plane * pooled, argmax + plane * pooled, [&](int, auto lanes, V grad) {
      const V common = S::fma(S::sub(lanes.load(x_plane), mean), slope, shift);
      lanes.store(to, S::mul(S::sub(grad, common), scale));
    });
  }
}

}  // namespace lenet_ext::cpu
