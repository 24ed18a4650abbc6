// The gradients of a tile, on its way back through a segment: a part of NetworkRun (network_run.h).
#pragma once

#include "cpu/engine/network_run.h"

namespace lenet_ext::cpu {

template <class S, class Stored>
class NetworkRun<S, Stored>::TileGradients {
 public:
  TileGradients(NetworkRun& run, Segment<S>& segment, Tile& tile)
      : run_(run),
        segment_(segment),
        tile_(tile),
        own_(segment.gradients_size()),
        more_(segment.added_size()),
        filled_(static_cast<int64_t>(run.values_.size())) {
    for (size_t v = 0; v < run.values_.size(); ++v) filled_[static_cast<int64_t>(v)] = run.values_[v].filled;
  }

  // To be written with the gradient of an output, where none has been written before, else added to.
  T* output(int value) {
    if (!filled_[value]) return at(value);
    return more_output_.emplace(tile_.range.count * run_.network_.value_size(value)).data();
  }
  void written(int value) {
    if (filled_[value]) add(value, more_output_->data());
    filled_[value] = true;
  }

  void backward(const GradientSink<T>& sink) {
    for_each_stage([&](size_t i, const StageCall<T>& call, T* grad_output, T* const* grad_inputs) {
      segment_.kernels(i).backward(call, grad_output, grad_inputs, segment_.part_of(sink, i));
    });
  }

  // body(stage, call, grad_output, grad_inputs) for the stages in the order of backward, which it is to run.
  template <class Body>
  void for_each_stage(const Body& body) {
    for (size_t i = segment_.end(); i-- > segment_.begin();) {
      const int value = static_cast<int>(i) + 1;
      if (!run_.values_[value].wanted) continue;
      complete(value);
      with_places(i, run_.network_.stages[i], body);
    }
  }

  // What later segments, and statistics, add to the gradient of a value; zeros where nothing does.
  void complete(int value) {
    const Network& network = run_.network_;
    for (size_t i = segment_.end(); i < network.stages.size(); ++i) {
      if (run_.stages_[i].gradients == nullptr || network.stages[i].inputs[0] != value) continue;
      const int64_t first = tile_.range.first;
      const T* const grad = run_.stages_[i].gradients + first * network.stages[i].batch_gradient_size();
      uint8_t* const kept = run_.stages_[i].kept;
      const StageCall<T> call{
          .first = first,
          .count = tile_.range.count,
          .values = tile_.values(),
          .inputs = network.stages[i].inputs.data(),
          .output = nullptr,
          .kept = kept == nullptr ? nullptr : kept + first * network.stages[i].argmax_bytes()};
      Scratch<T> added(filled_[value] ? tile_.range.count * network.value_size(value) : 0);
      T* const to = filled_[value] ? added.data() : at(value);
      run_.engine_->kernels(i).statistics()->finish_input_gradient(call, grad, to);
      if (filled_[value]) add(value, added.data());
      filled_[value] = true;
    }
    if (!filled_[value]) std::fill_n(at(value), tile_.range.count * network.value_size(value), T(0));
    filled_[value] = true;
  }

 private:
  T* at(int value) {
    T* const whole = run_.values_[value].gradients;
    if (whole != nullptr) return whole + tile_.range.first * run_.network_.value_size(value);
    return own_.data() + segment_.gradient_at(value);
  }
  void add(int value, const T* more) {
    add_row<S>(more, at(value), tile_.range.count * run_.network_.value_size(value));
  }

  // body as above, of one stage, with the places of the gradients of its inputs.
  template <class Body>
  void with_places(size_t i, const Stage& stage, const Body& body) {
    const auto count = static_cast<int64_t>(stage.inputs.size());
    Scratch<T*> to(count);
    // Where a gradient is there already, what is to be added goes elsewhere first: for the first such input
    // to memory that lies ready, for others to more.
    std::vector<std::unique_ptr<Scratch<T>>> others;
    std::vector<std::pair<int, const T*>> added;
    for (int64_t k = 0; k < count; ++k) {
      const int value = stage.inputs[k];
      if (!run_.values_[value].wanted) {
        to[k] = nullptr;
      } else if (stage.needs_statistics()) {
        to[k] = run_.stages_[i].gradients + tile_.range.first * stage.batch_gradient_size();
      } else if (!filled_[value]) {
        to[k] = at(value);
        filled_[value] = true;
      } else {
        if (!added.empty()) {
          others.push_back(std::make_unique<Scratch<T>>(tile_.range.count * run_.network_.value_size(value)));
        }
        to[k] = added.empty() ? more_.data() : others.back()->data();
        added.emplace_back(value, to[k]);
      }
    }
    body(i, run_.call_of(tile_, i), at(static_cast<int>(i) + 1), to.data());
    for (const auto& [value, more] : added) add(value, more);
  }

  NetworkRun& run_;
  Segment<S>& segment_;
  Tile& tile_;
  Scratch<T> own_, more_;
  std::optional<Scratch<T>> more_output_;
  Scratch<bool> filled_;  // the gradients of which values are there, of this tile
};

}  // namespace lenet_ext::cpu
