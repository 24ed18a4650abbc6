// Where a backward pass leaves the gradients of parameters.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/runtime/parallel.h"

namespace lenet_ext::cpu {

// `rows` times `count` elements of a parameter's gradient, from element `first` on: row r is factors[r] * values.
template <class T>
struct GradientPiece {
  static constexpr T kOne = 1;

  int parameter;
  int64_t first, count;
  const T* values;
  int64_t rows = 1;
  const T* factors = &kOne;
};

// body(part) for parts of a piece, in parallel. cost: about the cycles of 16 elements.
template <class T, class Body>
void for_each_part(const GradientPiece<T>& piece, int64_t cost, const Body& body) {
  constexpr int64_t kBlock = 4096;
  if (piece.rows > 1) {
    return parallel_for(piece.rows, piece.count * cost / 16, [&](int64_t begin, int64_t end) {
      GradientPiece<T> part = piece;
      part.first += begin * piece.count, part.rows = end - begin, part.factors += begin;
      body(part);
    });
  }
  parallel_for((piece.count + kBlock - 1) / kBlock, kBlock * cost / 16, [&](int64_t begin, int64_t end) {
    GradientPiece<T> part = piece;
    part.first += begin * kBlock, part.values += begin * kBlock;
    part.count = std::min(end * kBlock, piece.count) - begin * kBlock;
    body(part);
  });
}

template <class T>
class GradientSink {
 public:
  using Take = void (*)(const void* context, const GradientPiece<T>& piece);

  // No gradients are wanted.
  static GradientSink none() { return {}; }

  // Partial sums of a chunk of the batch, in a layout of the stage's own: added to.
  static GradientSink sums(T* sums) {
    GradientSink sink;
    sink.sums_ = sums;
    return sink;
  }

  // For a batch that is a single tile: the gradients themselves, piece by piece, while they are in the cache.
  // take(piece) may change the parameter; the sink refers to it.
  template <class Body>
  static GradientSink pieces(const Body& take) {
    GradientSink sink;
    sink.context_ = &take;
    sink.take_ = [](const void* context, const GradientPiece<T>& piece) {
      (*static_cast<const Body*>(context))(piece);
    };
    return sink;
  }

  bool is_wanted() const { return sums_ != nullptr || take_ != nullptr; }
  bool takes_pieces() const { return take_ != nullptr; }

  T* sums() const { return sums_; }
  void take(const GradientPiece<T>& piece) const {
    if (take_ != nullptr) take_(context_, piece);
  }

 private:
  T* sums_ = nullptr;
  const void* context_ = nullptr;
  Take take_ = nullptr;
};

}  // namespace lenet_ext::cpu
