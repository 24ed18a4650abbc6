// Batch normalization with given statistics, and its gradients:
//
//   y = xhat * weight + bias    xhat = (x - mean) * inv_std
//
// The mean is the sum of two numbers of the compute type, so that x - mean is right where the mean is large:
// the first difference is nearly exact, and the second number is a constant of the channel.
#pragma once

#include "cpu/batch_norm/channels.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

// Of each channel. low_mean, weight, bias: null for zeros, ones, zeros.
template <class T>
struct Normalization {
  const T *mean, *low_mean, *inv_std, *weight, *bias;

  T scale(int64_t c) const { return weight == nullptr ? inv_std[c] : inv_std[c] * weight[c]; }
  T low(int64_t c) const { return low_mean == nullptr ? T(0) : low_mean[c]; }
  // What is added to (x - mean) * inv_std for the mean's second number.
  T low_shift(int64_t c) const { return -low(c) * inv_std[c]; }
  // Of the channels from `first` on.
  Normalization from(int64_t first) const {
    const auto at = [&](const T* values) { return values == nullptr ? nullptr : values + first; };
    return {at(mean), at(low_mean), at(inv_std), at(weight), at(bias)};
  }
};

template <class S, class T = typename S::Scalar>
void normalize(const BatchNormShape& s, int64_t images, const Normalization<T>& by, const T* x, T* y) {
  Scratch<T> scales(s.channels), shifts(s.channels);
  for (int64_t c = 0; c < s.channels; ++c) {
    scales[c] = by.scale(c);
    shifts[c] = (by.bias == nullptr ? T(0) : by.bias[c]) - by.low(c) * scales[c];
  }
  for_each_value<S, 3>(s, images, {by.mean, scales.data(), shifts.data()},
                       [&](auto lanes, const Constants<S, 3>& of) {
                         const auto& [mean, scale, shift] = of.values;
                         lanes.store(y, S::fma(S::sub(lanes.load(x), mean), scale, shift));
                       });
}

// sums, sums_of_products (channels) += the sums of g and of g * xhat over all values of some images.
template <class S, class T = typename S::Scalar>
void add_normalize_sums(const BatchNormShape& s, int64_t images, const Normalization<T>& by, const T* x,
                        const T* g, double* sums, double* sums_of_products) {
  using V = typename S::Vector;
  Scratch<T> shifts(s.channels);
  for (int64_t c = 0; c < s.channels; ++c) shifts[c] = by.low_shift(c);
  for (int64_t first = 0; first < s.channels;) {
    ChannelSums<S, 2> channel(s, images, first);
    channel.template add<3>({by.mean, by.inv_std, shifts.data()},
                            [&](auto lanes, const Constants<S, 3>& of, V(&sum)[2]) {
                              const auto& [mean, inv_std, shift] = of.values;
                              const V grad = lanes.load(g);
                              const V xhat = S::fma(S::sub(lanes.load(x), mean), inv_std, shift);
                              sum[0] = S::add(sum[0], grad);
                              sum[1] = S::fma(grad, xhat, sum[1]);
                            });
    for (int i = 0; i < channel.channels(); ++i, ++first) {
      sums[first] += channel(0, i);
      sums_of_products[first] += channel(1, i);
    }
  }
}

// grad_x = g * inv_std * weight; may be g.
template <class S, class T = typename S::Scalar>
void normalize_grad(const BatchNormShape& s, int64_t images, const Normalization<T>& by, const T* g,
                    T* grad_x) {
  Scratch<T> scales(s.channels);
  for (int64_t c = 0; c < s.channels; ++c) scales[c] = by.scale(c);
  for_each_value<S, 1>(s, images, {scales.data()}, [&](auto lanes, const Constants<S, 1>& of) {
    lanes.store(grad_x, S::mul(lanes.load(g), of.values[0]));
  });
}

// Where mean and inv_std are those of x: grad_x = (g - mean(g) - xhat * mean(g * xhat)) * inv_std * weight,
// with the two means over the whole batch given. grad_x may be g.
template <class S, class T = typename S::Scalar>
void batch_normalize_grad(const BatchNormShape& s, int64_t images, const Normalization<T>& by,
                          const T* grad_means, const T* product_means, const T* x, const T* g, T* grad_x) {
  Scratch<T> scales(s.channels), slopes(s.channels), shifts(s.channels);
  for (int64_t c = 0; c < s.channels; ++c) {
    scales[c] = by.scale(c);
    slopes[c] = by.inv_std[c] * product_means[c];
    shifts[c] = grad_means[c] - by.low(c) * slopes[c];
  }
  for_each_value<S, 4>(s, images, {by.mean, scales.data(), slopes.data(), shifts.data()},
                       [&](auto lanes, const Constants<S, 4>& of) {
                         const auto& [mean, scale, slope, shift] = of.values;
                         const auto common = S::fma(S::sub(lanes.load(x), mean), slope, shift);
                         lanes.store(grad_x, S::mul(S::sub(lanes.load(g), common), scale));
                       });
}

}  // namespace lenet_ext::cpu
