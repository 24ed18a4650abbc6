// Normalization of each image by itself and its gradients, group after group: what one needs stays in the
// cache, so that the backward pass computes the statistics again.
//
//   y = xhat * weight + bias    xhat = (x - mean) * inv_std
#pragma once

#include "cpu/image_norm/statistics.h"

namespace lenet_ext::cpu {

template <class S, class T = typename S::Scalar>
void image_normalize(const ImageNormShape& s, int64_t images, const T* weight, const T* bias, const T* x,
                     T* y) {
  if (s.size == 0) return;
  for (int64_t at = 0; at < images * s.groups; ++at, x += s.size, y += s.size) {
    const GroupStatistics<S> by(s, x);
    for_each_weighted<S>(s, at % s.groups,
                         [&](int64_t i, const auto& load, const auto& store, const auto& of) {
                           store(y + i, S::fma(by.normalized(load(x + i)), of(weight), of(bias)));
                         });
  }
}

// Of a group: the sums of g * weight and of g * weight * xhat, where g is the gradient of y.
struct GroupGradSums {
  double grad = 0, product = 0;
};

// sums (2, weights), if wanted: the sums of g and of g * xhat are added at each element of the weight.
template <class S, class T = typename S::Scalar>
GroupGradSums group_grad_sums(const ImageNormShape& s, int64_t group, const GroupStatistics<S>& by,
                              const T* weight, const T* x, const T* g, T* sums) {
  using V = typename S::Vector;
  GroupGradSums total;
  const int64_t first = first_weight(s, group);
  const bool each_has_its_own = s.run == 1;
  const int64_t run = each_has_its_own ? s.size : s.run;
  for (int64_t begin = 0, element = first; begin < s.size; begin += run, ++element) {
    const BatchNormShape values{.channels = 1, .plane = run, .eps = 0};
    ChannelSums<S, 2> run_sums(values, 1, 0);
    run_sums.template add<3>(
        {&by.mean, &by.inv_std, &by.shift}, [&](auto lanes, const Constants<S, 3>& of, V(&sum)[2]) {
          const auto& [mean, inv_std, shift] = of.values;
          const V grad = lanes.load(g + begin);
          const V xhat = S::fma(S::sub(lanes.load(x + begin), mean), inv_std, shift);
          V weighted = grad;
          if (each_has_its_own) {
            weighted = S::mul(grad, lanes.load(weight + first));
            if (sums != nullptr) {
              T *const of_bias = sums + first, *const of_weight = sums + s.weights + first;
              lanes.store(of_bias, S::add(lanes.load(of_bias), grad));
              lanes.store(of_weight, S::fma(grad, xhat, lanes.load(of_weight)));
            }
          }
          sum[0] = S::add(sum[0], weighted);
          sum[1] = S::fma(weighted, xhat, sum[1]);
        });
    const double grad = run_sums(0, 0), product = run_sums(1, 0);
    const double factor = each_has_its_own ? 1.0 : static_cast<double>(weight[element]);
    total.grad += factor * grad, total.product += factor * product;
    if (each_has_its_own || sums == nullptr) continue;
    sums[element] += static_cast<T>(grad);
    sums[s.weights + element] += static_cast<T>(product);
  }
  return total;
}

// grad_x = (g * weight - mean(g * weight) - xhat * mean(g * weight * xhat)) * inv_std, if wanted; it may be g.
// sums: as of group_grad_sums, over all groups of the images.
template <class S, class T = typename S::Scalar>
void image_normalize_grad(const ImageNormShape& s, int64_t images, const T* weight, const T* x, const T* g,
                          T* sums, T* grad_x) {
  using V = typename S::Vector;
  if (s.size == 0) return;
  for (int64_t at = 0; at < images * s.groups; ++at) {
    const int64_t begin = at * s.size, group = at % s.groups;
    const GroupStatistics<S> by(s, x + begin);
    const GroupGradSums total = group_grad_sums<S>(s, group, by, weight, x + begin, g + begin, sums);
    if (grad_x == nullptr) continue;
    const auto count = static_cast<double>(s.size);
    const V mean = S::broadcast(static_cast<T>(-total.grad / count));
    const V slope = S::broadcast(static_cast<T>(-total.product / count));
    const V inv_std = S::broadcast(by.inv_std);
    for_each_weighted<S>(s, group, [&](int64_t i, const auto& load, const auto& store, const auto& of) {
      const V common = S::fma(by.normalized(load(x + begin + i)), slope, mean);
      store(grad_x + begin + i, S::mul(S::fma(load(g + begin + i), of(weight), common), inv_std));
    });
  }
}

}  // namespace lenet_ext::cpu
