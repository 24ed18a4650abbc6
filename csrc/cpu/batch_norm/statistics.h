// The statistics of a batch: of tiles while they are in the cache, in two passes (the mean, then the
// deviations from it), merged in the order of the tiles (Chan, Golub, LeVeque, "Updating formulae and a
// pairwise algorithm for computing sample variances", 1979). Where the mean is large beside the deviation
// they are as exact as the values: deviations are small numbers, and the merging is in double.
#pragma once

#include "cpu/batch_norm/channels.h"
#include "cpu/runtime/scratch.h"

namespace lenet_ext::cpu {

// Of some values of a channel.
struct Moments {
  double count = 0, mean = 0, squares = 0;  // squares: the sum of squared deviations from the mean

  void merge(const Moments& other) {
    if (other.count == 0) return;
    const double total = count + other.count, delta = other.mean - mean;
    mean += delta * (other.count / total);
    squares += other.squares + delta * delta * (count * other.count / total);
    count = total;
  }
};

// means, squares (channels): of all values of some images, at least one.
template <class S>
void channel_moments(const BatchNormShape& s, int64_t images, const typename S::Scalar* x, double* means,
                     double* squares) {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  const auto count = static_cast<double>(images * s.plane);
  Scratch<T> near_means(s.channels);
  for (int64_t first = 0; first < s.channels;) {
    ChannelSums<S, 1> sums(s, images, first);
    sums.template add<0>(
        {}, [&](auto lanes, const auto&, V(&sum)[1]) { sum[0] = S::add(sum[0], lanes.load(x)); });
    for (int i = 0; i < sums.channels(); ++i) near_means[first + i] = static_cast<T>(sums(0, i) / count);
    // The sum of the deviations tells how far off that mean is.
    ChannelSums<S, 2> deviations(s, images, first);
    deviations.template add<1>({near_means.data()}, [&](auto lanes, const auto& near_mean, V(&sum)[2]) {
      const V deviation = S::sub(lanes.load(x), near_mean.values[0]);
      sum[0] = S::add(sum[0], deviation);
      sum[1] = S::fma(deviation, deviation, sum[1]);
    });
    for (int i = 0; i < sums.channels(); ++i, ++first) {
      const double off = deviations(0, i) / count;
      means[first] = near_means[first] + off;
      squares[first] = std::max(deviations(1, i) - off * deviations(0, i), 0.0);
    }
  }
}

}  // namespace lenet_ext::cpu
