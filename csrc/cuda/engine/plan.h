// The host's half of the fused engine: turns the chain of stages into what the kernel takes, and lays out the
// memory of a tile.
#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <vector>

#include "cuda/engine/launch.h"

namespace lenet_ext::cuda {

// Buffers that live from one phase to another: those that never live at the same time may share memory.
class TileMemory {
 public:
  explicit TileMemory(int64_t value_bytes) : value_bytes_(value_bytes) {}

  // `at` becomes the buffer's place, in bytes, once place() is called.
  void add(int64_t* at, int64_t values, int first_phase, int last_phase) {
    add_bytes(at, values * value_bytes_, first_phase, last_phase);
  }
  void add_bytes(int64_t* at, int64_t bytes, int first_phase, int last_phase) {
    buffers_.push_back({at, divide_up(bytes, kAlignment) * kAlignment, first_phase, last_phase});
  }

  // The bytes of them all: the largest first, each at the lowest place that is free in all of its phases.
  int64_t place() {
    std::ranges::stable_sort(buffers_, std::greater{}, &Buffer::bytes);
    int64_t end = 0;
    for (auto buffer = buffers_.begin(); buffer != buffers_.end(); ++buffer) {
      *buffer->at = lowest_place(*buffer, {buffers_.begin(), buffer});
      end = std::max(end, *buffer->at + buffer->bytes);
    }
    return end;
  }

 private:
  struct Buffer {
    int64_t* at;
    int64_t bytes;
    int first_phase, last_phase;
  };
  static constexpr int64_t kAlignment = 128;  // a line of the cache, and all banks of shared memory

  static int64_t lowest_place(const Buffer& buffer, std::span<const Buffer> placed) {
    std::vector<const Buffer*> beside;
    for (const Buffer& other : placed) {
      if (other.first_phase <= buffer.last_phase && buffer.first_phase <= other.last_phase) {
        beside.push_back(&other);
      }
    }
    std::ranges::sort(beside, {}, [](const Buffer* other) { return *other->at; });
    int64_t place = 0;
    for (const Buffer* other : beside) {
      if (place + buffer.bytes <= *other->at) break;
      place = std::max(place, *other->at + other->bytes);
    }
    return place;
  }

  int64_t value_bytes_;
  std::vector<Buffer> buffers_;
};

// The channels that a thread computes at once: those with the fewest rounds of the block, weighted by what a
// round costs: a multiplication for each channel and the loads, which cost about three.
inline int32_t best_chunk(int64_t groups, int64_t channels, int64_t pixels) {
  const auto cost = [&](int64_t chunk) {
    return divide_up(groups * divide_up(channels, chunk) * pixels, kTileThreads) * (chunk + 3);
  };
  return static_cast<int32_t>(std::ranges::min({1, 4, 6, 8}, {}, cost));
}

// Raises an error for a network with a stage that CUDA has no kernel for.
inline void check_stages(const Network& net) {
  constexpr const char* kWayOut = "; lenet_ext.convert takes it layer by layer";
  const auto count = static_cast<int>(net.stages.size());
  for (int i = 0; i < count; ++i) {
    const Stage& s = net.stages[i];
    const bool known = s.core == LayerKind::kNone || s.core == LayerKind::kConv2d ||
                       (s.core == LayerKind::kLinear && s.linear.rows == 1);
    if (!known) fail(s.name, ": CUDA has no kernel for this layer in the fused engine", kWayOut);
    if (s.inputs[0] != i) fail(s.name, ": on CUDA a network must be a chain of layers", kWayOut);
  }
  if (net.outputs.size() != 1 || net.outputs[0].value != count) {
    fail(net.name, ": on CUDA a network must return its last value alone", kWayOut);
  }
  for (int readers : net.parameter_readers) {
    if (readers > 1) fail(net.name, ": on CUDA a parameter may be used once", kWayOut);
  }
}

// The stages, as far as sizes decide: pointers are still null, and the tile's memory is not laid out.
template <class Compute>
void set_stages(const Network& net, int64_t batch, TilePass<Compute>& pass) {
  const char* const op = net.name.c_str();
  using Core = Stage::Core;
  check_stages(net);
  const auto count = static_cast<int32_t>(net.stages.size());
  if (count > kMostStages)
    fail(op, ": on CUDA a network may have up to ", kMostStages, " stages, got ", count);
  // Where an image of these sizes lies, for the stage that reads it.
  const auto view = [&](int64_t height, int64_t width, int64_t size, int32_t reader) {
    View v{kNowhere, 0, 0, 0, 0, static_cast<int32_t>(height), static_cast<int32_t>(width)};
    int64_t padded_height = height, padded_width = width;
    if (reader < count && net.stages[reader].core == Core::kConv2d) {
      const Conv2dShape& c = net.stages[reader].conv;
      padded_height += c.pad_top + c.pad_bottom, padded_width += c.pad_left + c.pad_right;
      v.origin = static_cast<int32_t>(c.pad_top * padded_width + c.pad_left);
    }
    const int64_t channels = height * width == 0 ? 0 : size / (height * width);
    const int64_t padded = multiply_sizes(op, channels, multiply_sizes(op, padded_height, padded_width));
    if (padded > kMostTileValues) {
      fail(op, ": on CUDA an image may have up to ", kMostTileValues, " elements in each layer, got ",
           padded);
    }
    v.row = static_cast<int32_t>(padded_width), v.plane = static_cast<int32_t>(padded_height * padded_width);
    v.size = static_cast<int32_t>(padded);
    return v;
  };
  const bool flat = net.image_sizes.size() != 3;
  pass.stage_count = count, pass.batch = batch;
  pass.input =
      view(flat ? 1 : net.image_sizes[1], flat ? 1 : net.image_sizes[2], net.stages[0].input_size, 0);
  View input = pass.input;
  for (int32_t i = 0; i < count; ++i) {
    const Stage& shape = net.stages[i];
    TileStage<Compute>& s = pass.stages[i];
    s = {};
    s.core = shape.core, s.activation = shape.activation, s.pooled = shape.pooled;
    s.input_activation = i > 0 ? net.stages[i - 1].activation : ActivationCall{};
    s.rows = s.columns = {1, 1, 1, 1, 0, 1};
    s.groups = 1;
    int64_t height = input.height, width = input.width;
    if (shape.core == Core::kConv2d) {
      const Conv2dShape& c = shape.conv;
      if (shape.weight_size > kMostTileValues) {
        fail(op, ": on CUDA the weight of a conv2d may have up to ", kMostTileValues, " elements, got ",
             shape.weight_size);
      }
      s.rows = axis(c.height, c.out_height, c.kernel_height, c.stride_h, c.pad_top, c.dilation_h);
      s.columns = axis(c.width, c.out_width, c.kernel_width, c.stride_w, c.pad_left, c.dilation_w);
      s.groups = static_cast<int32_t>(c.groups);
      s.group_in = static_cast<int32_t>(c.group_in()), s.group_out = static_cast<int32_t>(c.group_out());
      s.chunk = best_chunk(c.groups, s.group_out, c.out_height * c.out_width);
      s.back_chunk = best_chunk(c.groups, s.group_in, c.height * c.width);
      s.weight_stride = static_cast<int32_t>(divide_up(s.group_out, s.chunk) * s.chunk);
      s.back_stride = static_cast<int32_t>(divide_up(s.group_in, s.back_chunk) * s.back_chunk);
      height = c.out_height, width = c.out_width;
    } else if (shape.core == Core::kLinear) {
      s.group_in = static_cast<int32_t>(shape.linear.in_features);
      s.group_out = static_cast<int32_t>(shape.linear.out_features);
      height = width = 1;
    }
    s.core_output = shape.core == Core::kNone ? input : view(height, width, shape.core_size, count);
    if (shape.pooled) {
      const MaxPool2dShape& p = shape.pool;
      check_positions(op, p.height + 2 * p.pad_h, p.width + 2 * p.pad_w);
      s.pool_rows = axis(p.height, p.out_height, p.kernel_height, p.stride_h, p.pad_h, p.dilation_h);
      s.pool_columns = axis(p.width, p.out_width, p.kernel_width, p.stride_w, p.pad_w, p.dilation_w);
      s.byte_argmax = p.byte_argmax();
      height = p.out_height, width = p.out_width;
    }
    s.input_size = static_cast<int32_t>(shape.input_size);
    s.core_size = static_cast<int32_t>(shape.core_size);
    s.output_size = static_cast<int32_t>(shape.output_size);
    s.weight_count = shape.weight_size;
    s.parameter_count = shape.parameter_count();
    s.input = input;
    s.output = input = view(height, width, shape.output_size, i + 1);
  }
}

// Lays out the memory of a tile of `images` images; returns its bytes.
template <class Compute>
int64_t lay_out(TilePass<Compute>& pass, const TilePurpose& purpose, int images) {
  const int count = pass.stage_count, loss_phase = count + 1;
  const auto forward_phase = [&](int stage) { return purpose.forward ? stage + 1 : 0; };
  const auto backward_phase = [&](int stage) { return loss_phase + count - stage; };
  // The values that stage `stage` reads: used by it forward, and for the gradients of its weight and of the
  // activation before it.
  const auto last_use = [&](int stage) {
    if (stage == count) return purpose.backward ? loss_phase : count;
    return purpose.backward ? backward_phase(stage) : stage + 1;
  };
  TileMemory memory(static_cast<int64_t>(sizeof(Compute)) * images);
  memory.add(&pass.input.at, pass.input.size, 0, last_use(0));
  for (int i = 0; i < count; ++i) {
    TileStage<Compute>& s = pass.stages[i];
    const bool is_conv2d = s.core == Stage::Core::kConv2d;
    const int phase = forward_phase(i);
    s.positions_at = s.grad_at = s.core_grad_at = s.input_grad_at = kNowhere;
    memory.add(&s.output.at, s.output.size, phase, last_use(i + 1));
    if (s.pooled && is_conv2d && purpose.forward) {
      memory.add(&s.core_output.at, s.core_output.size, phase, phase);
    }
    if (!purpose.backward) continue;
    if (s.pooled) {
      memory.add_bytes(&s.positions_at, int64_t{4} * s.output_size * images, phase, backward_phase(i));
    }
    memory.add(&s.grad_at, s.output_size, i + 1 < count ? backward_phase(i + 1) : loss_phase,
               backward_phase(i));
    const bool wants_input_grad = i > 0 || purpose.input_grad;
    if (s.pooled && is_conv2d && wants_input_grad) {
      memory.add(&s.core_grad_at, s.core_size, backward_phase(i), backward_phase(i));
    }
  }
  int64_t first_grad = kNowhere;
  if (purpose.backward && purpose.input_grad) {
    memory.add(&first_grad, pass.stages[0].input_size, backward_phase(0), backward_phase(0));
  }
  const int64_t bytes = memory.place();
  View input = pass.input;
  for (int i = 0; i < count; ++i) {
    TileStage<Compute>& s = pass.stages[i];
    s.input = input;
    if (s.core == Stage::Core::kNone) s.core_output = input;
    if (purpose.backward) s.input_grad_at = i > 0 ? pass.stages[i - 1].grad_at : first_grad;
    input = s.output;
  }
  return bytes;
}

}  // namespace lenet_ext::cuda
