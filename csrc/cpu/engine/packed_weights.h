// The weights of a network's linear layers as PackedLinear reads them, for values that stay the same.
#pragma once

#include <memory>
#include <vector>

#include "cpu/linear/packed.h"
#include "cpu/runtime/scratch.h"
#include "engine/network.h"

namespace lenet_ext::cpu {

template <class S>
class PackedWeights {
  using T = typename S::Scalar;

 public:
  // Whether a pass over so many images would read any of them.
  static bool serve(const Network& network, int64_t images) {
    return std::ranges::any_of(network.stages, [&](const Stage& s) {
      return s.core == LayerKind::kLinear && PackedLinear<S>::suits(images * s.linear.rows);
    });
  }

  // tensors: all parameters of the network.
  PackedWeights(const Network& network, const std::vector<const T*>& tensors) : pointers_(tensors.size()) {
    const LastingScratch lasting(arena_);
    for (const Stage& s : network.stages) {
      if (s.core != LayerKind::kLinear || pointers_[s.weight] != nullptr) continue;
      const int64_t in = s.linear.in_features, out = s.linear.out_features;
      memory_.push_back(std::make_unique<Scratch<T>>(PackedLinear<S>::size(in, out)));
      PackedLinear<S>::pack(in, out, tensors[s.weight], memory_.back()->data());
      pointers_[s.weight] = memory_.back()->data();
    }
  }
  ~PackedWeights() {
    const LastingScratch lasting(arena_);
    memory_.clear();
  }

  // By parameter, null for those that no linear layer has.
  const T* const* pointers() const { return pointers_.data(); }

 private:
  ScratchArena arena_;
  std::vector<std::unique_ptr<Scratch<T>>> memory_;
  std::vector<const T*> pointers_;
};

}  // namespace lenet_ext::cpu
