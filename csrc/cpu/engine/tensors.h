// Where tensors enter and leave the fused engine: images, parameters and updates, widened from 16-bit types
// and narrowed to them.
#pragma once

#include "cpu/engine/optimizer.h"
#include "cpu/microkernels/transpose.h"
#include "cpu/runtime/parallel.h"
#include "cpu/runtime/scratch.h"
#include "engine/passes.h"

namespace lenet_ext::cpu {

// Where image i of the pass lies among those that are available.
inline int64_t source_image(const Images& images, int64_t i) {
  return images.order == nullptr ? i : images.order[i];
}

// `count` images from `first` on in the compute type: the memory itself, or converted into `buffer`.
template <class S, class Stored>
const typename S::Scalar* load_images(const Network& network, const Images& images, int64_t first,
                                      int64_t count, typename S::Scalar* buffer) {
  using T = typename S::Scalar;
  const int64_t size = network.image_size();
  if constexpr (std::is_same_v<T, Stored>) {
    if (!images.bytes && images.order == nullptr) return static_cast<const T*>(images.data) + first * size;
  }
  const int64_t channels = network.image_sizes[0], plane = size / std::max<int64_t>(channels, 1);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t source = source_image(images, first + i) * size;
    T* to = buffer + i * size;
    if (!images.bytes) {
      copy_row<S>(static_cast<const Stored*>(images.data) + source, to, size);
      continue;
    }
    const uint8_t* from = static_cast<const uint8_t*>(images.data) + source;
    for (int64_t c = 0; c < channels; ++c, from += plane, to += plane) {
      const auto scale = S::broadcast(T(images.scale[c])), shift = S::broadcast(T(images.shift[c]));
      for (int64_t j = 0; j < plane; j += S::width) {
        const int n = static_cast<int>(std::min<int64_t>(S::width, plane - j));
        S::store_partial(to + j, S::fma(S::load_bytes(from + j, n), scale, shift), n);
      }
    }
  }
  return buffer;
}

// The parameters in the compute type: the tensors themselves, or widened copies.
template <class S, class Stored>
class WideParameters {
  using T = typename S::Scalar;

 public:
  WideParameters(const Network& network, const void* const* parameters) : memory_(elements(network)) {
    pointers_.reserve(network.parameter_sizes.size());
    T* to = memory_.data();
    for (int64_t size : network.parameter_sizes) {
      const auto* from = static_cast<const Stored*>(parameters[pointers_.size()]);
      if constexpr (kSame) {
        pointers_.push_back(from);
      } else {
        copy_row<S>(from, to, size);
        pointers_.push_back(to);
        to += size;
      }
    }
  }
  const T* const* pointers() const { return pointers_.data(); }

 private:
  static constexpr bool kSame = std::is_same_v<T, Stored>;
  static int64_t elements(const Network& network) {
    int64_t count = 0;
    for (int64_t size : network.parameter_sizes) count += kSame ? 0 : size;
    return count;
  }

  Scratch<T> memory_;
  std::vector<const T*> pointers_;
};

// A piece of a gradient to its place in `gradient`: in place of what is there, or added to it.
template <class S, class Stored>
void write_piece(const GradientPiece<typename S::Scalar>& piece, bool adds, Stored* gradient) {
  constexpr int64_t kCost = 4;
  for_each_part(piece, kCost, [&](const auto& part) {
    Stored* to = gradient + part.first;
    for (int64_t r = 0; r < part.rows; ++r, to += part.count) {
      const auto factor = S::broadcast(part.factors[r]);
      for (int64_t i = 0; i < part.count; i += S::width) {
        const int n = static_cast<int>(std::min<int64_t>(S::width, part.count - i));
        const auto others = adds ? S::load_partial(to + i, n) : S::zero();
        S::store_partial(to + i, S::fma(factor, S::load_partial(part.values + i, n), others), n);
      }
    }
  });
}

// The optimizer's step of a part of a parameter, by a piece of its gradient. rows: of this step, one for each
// parameter.
template <class S, class Stored>
void update_parameter(const Network& network, const TrainPass& pass, const StepRow* rows,
                      const GradientPiece<typename S::Scalar>& piece) {
  if (rows[piece.parameter].trained == 0) return;
  with_optimizer<S>(*network.optimizer, rows[piece.parameter], [&]<class Trait>(const Trait& trait) {
    std::array<Stored*, Trait::kStates> state;
    for (size_t k = 0; k < state.size(); ++k) {
      state[k] = static_cast<Stored*>(pass.state[k * network.parameter_sizes.size() + piece.parameter]);
    }
    Stored* const parameter = static_cast<Stored*>(pass.parameters[piece.parameter]);
    for_each_part(piece, 16 / S::width * Trait::kCycles,
                  [&](const auto& part) { optimizer_step<S>(trait, part, state, parameter); });
  });
}

// Begins a step: the row of each parameter as it is in this step, which is counted.
inline void begin_step(const Network& network, const TrainPass& pass, StepRow* rows) {
  const int64_t width = options_per_parameter(network);
  for (size_t i = 0; i < network.parameter_sizes.size(); ++i) {
    begin_step(*network.optimizer, pass.options + static_cast<int64_t>(i) * width, width - 1,
               pass.steps == nullptr ? nullptr : pass.steps + i, rows + i);
  }
}

// Where a step that was begun is not taken.
inline void undo_step(const Network& network, const TrainPass& pass) {
  for (size_t i = 0; pass.steps != nullptr && i < network.parameter_sizes.size(); ++i) {
    if (pass.options[static_cast<int64_t>(i) * options_per_parameter(network)] != 0) pass.steps[i] -= 1;
  }
}

}  // namespace lenet_ext::cpu
