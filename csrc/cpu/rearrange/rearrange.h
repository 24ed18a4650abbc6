// Images whose elements are brought into another order: by runs of neighbours where these are long, as
// transposed matrices, else element by element.
#pragma once

#include <algorithm>
#include <optional>

#include "cpu/microkernels/transpose.h"
#include "rearrangement.h"

namespace lenet_ext::cpu {

// Neighbours in the input and in the result; or so many elements of padding.
struct ElementRun {
  int32_t source, count;

  bool goes_on_with(int32_t next) const {
    return source == Rearrangement::kPadding ? next == source : next == source + count;
  }
};

inline std::vector<ElementRun> runs_of(const Rearrangement& r) {
  std::vector<ElementRun> runs;
  for (const int32_t source : r.source) {
    if (!runs.empty() && runs.back().goes_on_with(source)) {
      ++runs.back().count;
    } else {
      runs.push_back({source, 1});
    }
  }
  return runs;
}

// Matrices of the input, one after the other, that are transposed.
struct Transposition {
  int64_t rows, columns;

  int64_t size() const { return rows * columns; }
};

inline std::optional<Transposition> transposition_of(const Rearrangement& r) {
  const std::vector<int32_t>& source = r.source;
  const auto size = static_cast<int64_t>(source.size());
  if (size < 2 || size != r.input_size || source[0] != 0 || source[1] < 2) return {};
  Transposition t{.rows = std::ranges::find(source, 1) - source.begin(), .columns = source[1]};
  if (size % t.size() != 0) return {};
  for (int64_t i = 0; i < size; ++i) {
    const int64_t at = i % t.size();
    if (source[i] != i - at + at % t.rows * t.columns + at / t.rows) return {};
  }
  return t;
}

template <class S>
class Rearranger {
  using T = typename S::Scalar;

 public:
  explicit Rearranger(const Rearrangement& r)
      : padding_(static_cast<T>(r.padding)),
        input_size_(r.input_size),
        size_(static_cast<int64_t>(r.source.size())),
        transposition_(transposition_of(r)) {
    constexpr int64_t kLeastMean = 6;  // elements of a run, about what one costs
    std::vector<ElementRun> runs = runs_of(r);
    if (size_ >= kLeastMean * static_cast<int64_t>(runs.size())) runs_ = std::move(runs);
    if (!transposition_ && runs_.empty()) source_ = r.source;
  }

  void run(int64_t images, const T* x, T* y) const {
    for (int64_t n = 0; n < images; ++n, x += input_size_, y += size_) {
      if (!runs_.empty()) {
        copy_runs(x, y);
      } else if (transposition_) {
        transpose_all(x, y);
      } else {
        copy_elements(x, y);
      }
    }
  }

 private:
  void copy_runs(const T* x, T* y) const {
    for (const ElementRun& run : runs_) {
      if (run.source == Rearrangement::kPadding) {
        std::fill_n(y, run.count, padding_);
      } else {
        copy_row<S>(x + run.source, y, run.count);
      }
      y += run.count;
    }
  }
  void transpose_all(const T* x, T* y) const {
    const auto [rows, columns] = *transposition_;
    for (int64_t at = 0; at < size_; at += rows * columns) {
      transpose<S>(x + at, columns, y + at, rows, rows, columns);
    }
  }
  void copy_elements(const T* x, T* y) const {
    for (int64_t i = 0; i < size_; ++i) {
      const int32_t source = source_[i];
      y[i] = source == Rearrangement::kPadding ? padding_ : x[source];
    }
  }

  const T padding_;
  const int64_t input_size_, size_;  // of an image and of its result
  std::vector<int32_t> source_;      // of each element, where neither of the following serves
  const std::optional<Transposition> transposition_;
  std::vector<ElementRun> runs_;
};

}  // namespace lenet_ext::cpu
