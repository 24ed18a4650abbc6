// What the kernels of a stage offer to its segment: forward and backward over a few images whose activations
// stay in the cache. All values are in the compute type and dense. Serial, unless the batch is a single tile:
// the engine gives each thread images of its own.
#pragma once

#include <algorithm>
#include <memory>

#include "cpu/engine/gradient_sink.h"
#include "cpu/microkernels/squares.h"
#include "cpu/runtime/scratch.h"
#include "engine/network.h"

namespace lenet_ext::cpu {

// Images [first, first + count) of the batch.
template <class T>
struct StageCall {
  int64_t first, count;
  const T* const* values;  // of the network, of these images
  const int* inputs;       // the numbers of those that the stage reads
  T* output;               // of these images
  uint8_t* kept;           // Stage::argmax_bytes of each, which forward leaves for backward; or null

  const T* input(int64_t i) const { return values[inputs[i]]; }
};

// What a pass computes with. tensors: all parameters of the network. seed: of dropout. packed: the weights of linear
// layers once more, by parameter (PackedWeights), or null.
template <class T>
struct StageParameters {
  const T* const* tensors;
  uint64_t seed;
  const T* const* packed = nullptr;
};

// The sums of a gradient that a stage adds to: those of its sink or, for a sink that takes pieces, zeroed ones of
// its own, to be given once the gradients of inputs are there, since the sink may change the parameter. Null
// where they are not wanted.
template <class T>
class StageSums {
 public:
  StageSums(const GradientSink<T>& sink, int64_t size)
      : own_(sink.takes_pieces() ? size : 0), sums_(sink.sums()) {
    if (!sink.takes_pieces()) return;
    sums_ = own_.data();
    std::fill_n(sums_, size, T(0));
  }
  T* data() const { return sums_; }

 private:
  Scratch<T> own_;
  T* sums_;
};

template <class S>
class StatisticsKernels;

template <class S>
class StageKernels {
 public:
  using T = typename S::Scalar;

  StageKernels() = default;
  StageKernels(const StageKernels&) = delete;
  StageKernels& operator=(const StageKernels&) = delete;
  virtual ~StageKernels() = default;

  // To be called before each pass.
  virtual void set_parameters(const StageParameters<T>&) {}
  virtual void forward(const StageCall<T>& call) const = 0;

  // Partial sums of the gradients of parameters: zeroed by the caller, added to by backward, summed over the
  // batch by the caller, then given in the order of the parameters by finish_sums.
  virtual int64_t sums_size() const { return 0; }
  // grad_output is overwritten. grad_inputs: of each input, written; null where it is not wanted.
  virtual void backward(const StageCall<T>& call, T* grad_output, T* const* grad_inputs,
                        const GradientSink<T>& sink) const = 0;
  virtual void finish_sums(const T*, const GradientSink<T>&) {}
  // Of all the gradients that finish_sums would give: the sum of their squares.
  virtual double squared_norm(const T* sums) {
    return squared_norm_of_pieces(sums, [](int) { return true; });
  }
  // Of the parameters for which counts(parameter).
  template <class Counts>
  double squared_norm_of_pieces(const T* sums, const Counts& counts) {
    double total = 0;
    const auto add = [&](const GradientPiece<T>& piece) {
      if (!counts(piece.parameter)) return;
      total += sum_of_squares<S>(piece.values, piece.count) * sum_of_squares<S>(piece.factors, piece.rows);
    };
    finish_sums(sums, GradientSink<T>::pieces(add));
    return total;
  }

  // Of a stage that needs statistics of the whole batch, else null.
  virtual StatisticsKernels<S>* statistics() { return nullptr; }
};

// A stage that normalizes by statistics of the whole batch: forward needs these before, and the gradient of the
// input needs sums over the whole batch.
template <class S>
class StatisticsKernels : public StageKernels<S> {
 public:
  using typename StageKernels<S>::T;

  // Moments of a tile of the input, while it is in the cache: partial_size() doubles for each tile.
  virtual int64_t partial_size() const = 0;
  virtual void observe(const T* input, int64_t count, double* partial) const = 0;
  // From those of all tiles, of so many images each: BatchNormShape::statistics_size() values.
  virtual void finish_statistics(const double* partials, int64_t tiles, const int64_t* tile_images,
                                 T* statistics) const = 0;
  // For forward and backward.
  virtual void set_statistics(const T* statistics) = 0;
  // backward() writes Stage::batch_gradient_size() values of an image, and its sinks take sums only. After
  // finish_sums() this makes the gradient of the input of them. call.output is not looked at.
  virtual void finish_input_gradient(const StageCall<T>& call, const T* grad, T* grad_input) const = 0;
};

}  // namespace lenet_ext::cpu
