// The two walks over images (N, C, plane) of which batch normalization is made: over all values with
// constants of their channel, and sums over each channel.
//
// Vectors lie along a plane, all in one channel; or where a plane is one value, along the channels.
#pragma once

#include <algorithm>
#include <array>

#include "batch_norm_shape.h"

namespace lenet_ext::cpu {

// `count` values from `at` on: a whole vector where kFull.
template <class S, bool kFull>
struct Lanes {
  using V = typename S::Vector;
  using T = typename S::Scalar;
  int64_t at;
  int count;

  V load(const T* p) const {
    if constexpr (kFull) {
      return S::load(p + at);
    } else {
      return S::load_partial(p + at, count);
    }
  }
  void store(T* p, V v) const {
    if constexpr (kFull) {
      S::store(p + at, v);
    } else {
      S::store_partial(p + at, v, count);
    }
  }
};

// Some arrays with a value for each channel.
template <class T, size_t kCount>
using ByChannel = std::array<const T*, kCount>;

// Of a channel, or of the channels of a vector. Lanes that have no value hold zeros.
template <class S, size_t kCount>
struct Constants {
  typename S::Vector values[kCount];

  static Constants broadcast(const ByChannel<typename S::Scalar, kCount>& arrays, int64_t channel) {
    Constants c;
    for (size_t i = 0; i < kCount; ++i) c.values[i] = S::broadcast(arrays[i][channel]);
    return c;
  }
  static Constants load(const ByChannel<typename S::Scalar, kCount>& arrays, int64_t channel, int lanes) {
    Constants c;
    for (size_t i = 0; i < kCount; ++i) c.values[i] = S::load_partial(arrays[i] + channel, lanes);
    return c;
  }
  Constants first(int lanes) const {
    Constants c;
    for (size_t i = 0; i < kCount; ++i) {
      typename S::Scalar buffer[S::width];
      S::store(buffer, values[i]);
      c.values[i] = S::load_partial(buffer, lanes);
    }
    return c;
  }
};

// body(lanes, constants) for all values of some images.
template <class S, size_t kCount, class Body>
void for_each_value(const BatchNormShape& s, int64_t images,
                    const ByChannel<typename S::Scalar, kCount>& arrays, const Body& body) {
  using C = Constants<S, kCount>;
  // Along (rows, columns), with the constants of a row or of a column.
  const bool along_channels = s.plane == 1;
  const int64_t columns = along_channels ? s.channels : s.plane;
  const int64_t rows = along_channels ? images : images * s.channels;
  for (int64_t row = 0, channel = 0; row < rows; ++row) {
    const C of_row = along_channels ? C{} : C::broadcast(arrays, channel);
    int64_t i = 0;
    for (; i + S::width <= columns; i += S::width) {
      body(Lanes<S, true>{row * columns + i, S::width},
           along_channels ? C::load(arrays, i, S::width) : of_row);
    }
    if (i < columns) {
      const auto rest = static_cast<int>(columns - i);
      body(Lanes<S, false>{row * columns + i, rest}, along_channels ? C::load(arrays, i, rest) : of_row);
    }
    channel = channel + 1 == s.channels ? 0 : channel + 1;
  }
}

// So that the sums of many values lose no more than those of a few: after so many vectors of terms in the
// compute type they are added in double.
constexpr int kFlushedTerms = 64;

// Sums over channels [first, first + channels()) of some images: a channel, or those of a vector.
template <class S, size_t kSums>
class ChannelSums {
  using T = typename S::Scalar;
  using V = typename S::Vector;

 public:
  ChannelSums(const BatchNormShape& s, int64_t images, int64_t first)
      : s_(s), images_(images), first_(first) {
    if (s.plane == 1) channels_ = static_cast<int>(std::min<int64_t>(S::width, s.channels - first));
  }

  int channels() const { return channels_; }
  double operator()(size_t sum, int channel) const { return totals_[sum][channel]; }

  // terms(lanes, constants, sums) adds the terms of a vector to each of kSums vectors.
  template <size_t kCount, class Terms>
  void add(const ByChannel<T, kCount>& arrays, const Terms& terms) {
    if (s_.plane == 1) {
      const auto constants = Constants<S, kCount>::load(arrays, first_, channels_);
      for (int64_t n = 0; n < images_; ++n) {
        terms(Lanes<S, false>{n * s_.channels + first_, channels_}, constants, sums_[0]);
        flush(1);
      }
      return flush(kFlushedTerms);
    }
    const auto constants = Constants<S, kCount>::broadcast(arrays, first_);
    const auto rest = static_cast<int>(s_.plane % S::width);
    const auto of_rest = constants.first(rest);
    for (int64_t n = 0; n < images_; ++n) {
      const int64_t begin = (n * s_.channels + first_) * s_.plane, end = begin + s_.plane;
      int64_t i = begin;
      for (; i + kWays * S::width <= end; i += kWays * S::width) {
        for (int way = 0; way < kWays; ++way) {
          terms(Lanes<S, true>{i + way * S::width, S::width}, constants, sums_[way]);
        }
        flush(1);
      }
      for (; i + S::width <= end; i += S::width) {
        terms(Lanes<S, true>{i, S::width}, constants, sums_[0]);
        flush(1);
      }
      if (rest > 0) terms(Lanes<S, false>{i, rest}, of_rest, sums_[1]);
      flush(1);
    }
    flush(kFlushedTerms);
  }

 private:
  static constexpr int kWays = 4;  // independent sums, for the latency of an addition

  void flush(int terms) {
    pending_ += terms;
    if (pending_ < kFlushedTerms) return;
    pending_ = 0;
    static_assert(kWays == 4);
    for (size_t i = 0; i < kSums; ++i) {
      const V sum = S::add(S::add(sums_[0][i], sums_[1][i]), S::add(sums_[2][i], sums_[3][i]));
      if (s_.plane == 1) {
        T lanes[S::width];
        S::store(lanes, sum);
        for (int lane = 0; lane < channels_; ++lane) totals_[i][lane] += lanes[lane];
      } else {
        totals_[i][0] += S::reduce_add(sum);
      }
      for (int way = 0; way < kWays; ++way) sums_[way][i] = S::zero();
    }
  }

  const BatchNormShape& s_;
  const int64_t images_, first_;
  int channels_ = 1, pending_ = 0;
  V sums_[kWays][kSums] = {};
  double totals_[kSums][S::width] = {};
};

}  // namespace lenet_ext::cpu
