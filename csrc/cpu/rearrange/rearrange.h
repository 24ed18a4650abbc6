// Images whose elements are brought into another order: by runs of neighbours where these are long, else
// element by element.
#pragma once

#include "cpu/microkernels/transpose.h"
#include "rearrangement.h"

namespace lenet_ext::cpu {

template <class S>
class Rearranger {
  using T = typename S::Scalar;

 public:
  explicit Rearranger(const Rearrangement& r)
      : r_(r), padding_(static_cast<T>(r.padding)), size_(static_cast<int64_t>(r.source.size())) {
    for (const int32_t source : r_.source) {
      if (!runs_.empty() && runs_.back().goes_on_with(source)) {
        ++runs_.back().count;
      } else {
        runs_.push_back({source, 1});
      }
    }
    constexpr int64_t kLeastMean = 6;  // elements of a run, about what one costs
    by_runs_ = size_ >= kLeastMean * static_cast<int64_t>(runs_.size());
    if (by_runs_) {
      r_.source = {};
    } else {
      runs_ = {};
    }
  }

  void run(int64_t images, const T* x, T* y) const {
    for (int64_t n = 0; n < images; ++n, x += r_.input_size, y += size_) {
      if (by_runs_) {
        copy_runs(x, y);
      } else {
        copy_elements(x, y);
      }
    }
  }

 private:
  struct Run {
    int32_t source, count;

    bool goes_on_with(int32_t next) const {
      return source == Rearrangement::kPadding ? next == source : next == source + count;
    }
  };

  void copy_runs(const T* x, T* y) const {
    for (const Run& run : runs_) {
      if (run.source == Rearrangement::kPadding) {
        std::fill_n(y, run.count, padding_);
      } else {
        copy_row<S>(x + run.source, y, run.count);
      }
      y += run.count;
    }
  }
  void copy_elements(const T* x, T* y) const {
    for (int64_t i = 0; i < size_; ++i) {
      const int32_t source = r_.source[i];
      y[i] = source == Rearrangement::kPadding ? padding_ : x[source];
    }
  }

  Rearrangement r_;
  const T padding_;
  const int64_t size_;  // of the result
  std::vector<Run> runs_;
  bool by_runs_;
};

}  // namespace lenet_ext::cpu
