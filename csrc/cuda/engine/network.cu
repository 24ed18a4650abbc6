// The passes of the fused engine: weights are made ready, a kernel takes tiles of images through all stages
// (net_tile.cuh), and the gradients that its blocks leave are summed, as they are or as a step of SGD.
#include <functional>
#include <optional>

#include "cuda/engine/launch.h"
#include "cuda/engine/parameters.cuh"
#include "cuda/launchers.h"

namespace lenet_ext::cuda {
namespace {

// Several buffers in one piece of scratch memory.
class Buffers {
 public:
  template <class T>
  void add(T** pointer, int64_t count) {
    constexpr int64_t kAlignment = 256;  // that of the allocator itself
    setters_.push_back(
        [pointer, at = bytes_](unsigned char* data) { *pointer = reinterpret_cast<T*>(data + at); });
    bytes_ += divide_up(count * static_cast<int64_t>(sizeof(T)), kAlignment) * kAlignment;
  }
  void allocate() {
    scratch_.emplace(bytes_);
    for (const auto& set : setters_) set(scratch_->data<unsigned char>());
  }

 private:
  std::vector<std::function<void(unsigned char*)>> setters_;
  std::optional<Scratch> scratch_;
  int64_t bytes_ = 0;
};

// A pass with all that surrounds it. Pointers into this object: it stays where it is.
template <class Stored>
class Run {
 public:
  using Compute = ComputeType<Stored>;
  static constexpr bool kSameType = std::is_same_v<Stored, Compute>;

  Run(const char* op, DType dtype, const NetShape& net, const NetImages& images, const NetPurpose& purpose)
      : op_(op), net_(net), purpose_(purpose) {
    pass.dtype = dtype, pass.images = images;
    pass.forward = purpose.forward, pass.backward = purpose.backward;
    launch_ = plan_net(op, net, purpose, pass);
    buffers.add(&pass.workspace, launch_.workspace_bytes);
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  // Where a pass for backward leaves the outputs of stages and the taps; `saved` [stage][image][values].
  void set_saved(void* saved, uint8_t* taps) {
    auto* values = static_cast<Compute*>(saved);
    for (int32_t i = 0; i < pass.stage_count; ++i) {
      NetStage<Compute>& s = pass.stages[i];
      s.saved = values;
      if (s.pooled) s.taps = taps + net_.tap_offset(static_cast<size_t>(i), net_.batch);
      values += net_.batch * s.output_size;
    }
  }

  void prepare(const void* const* parameters) {
    ready.stage_count = pass.stage_count;
    for (int32_t i = 0; i < pass.stage_count; ++i) {
      NetStage<Compute>& s = pass.stages[i];
      ReadyStage<Stored>& r = ready.stages[i];
      r = {};
      if (net_.stages[i].weight_size == 0) continue;
      r.is_conv2d = s.core == StageShape::Core::kConv2d;
      r.group_in = s.group_in, r.group_out = s.group_out, r.taps = s.rows.kernel * s.columns.kernel;
      r.weight_stride = s.weight_stride, r.back_stride = s.back_stride;
      r.weight = static_cast<const Stored*>(*parameters++);
      if (net_.stages[i].bias) r.bias = static_cast<const Stored*>(*parameters++);
      const bool wants_back = r.is_conv2d && purpose_.backward && (i > 0 || purpose_.input_grad);
      if (r.is_conv2d) {
        r.ready_count = int64_t{s.groups} * s.group_in * r.taps * s.weight_stride;
      } else if (!kSameType) {
        r.ready_count = s.weight_count;
      }
      if (wants_back) r.back_count = int64_t{s.groups} * s.group_out * r.taps * s.back_stride;
      if (!kSameType) r.bias_count = net_.stages[i].bias_size;
      if constexpr (kSameType) s.weight = r.weight, s.bias = r.bias;
      if (r.ready_count > 0) buffers.add(&r.ready, r.ready_count);
      if (r.back_count > 0) buffers.add(&r.ready_back, r.back_count);
      if (r.bias_count > 0) buffers.add(&r.ready_bias, r.bias_count);
    }
  }

  // grads: of weights and biases, or the parameters themselves.
  void prepare_gradients(void* const* grads) {
    summed.stage_count = pass.stage_count;
    linear.batch = net_.batch;
    for (int32_t i = 0; i < pass.stage_count; ++i) {
      NetStage<Compute>& s = pass.stages[i];
      SummedStage<Stored>& g = summed.stages[i];
      g = {};
      if (net_.stages[i].weight_size == 0) continue;
      g.count = s.parameter_count, g.weight_count = s.weight_count;
      g.weight = static_cast<Stored*>(*grads++);
      if (net_.stages[i].bias) g.bias = static_cast<Stored*>(*grads++);
      if (s.core == StageShape::Core::kConv2d) {
        g.slices = launch_.blocks;
      } else {
        LinearGrad<Compute>& l = linear.stages[linear.stage_count++];
        l = {};
        l.in_features = s.group_in, l.out_features = s.group_out, l.count = s.parameter_count;
        l.bias = net_.stages[i].bias;
        choose_splits(l, net_.batch);
        g.slices = l.splits;
        buffers.add(&s.linear_input, net_.batch * s.group_in);
        buffers.add(&s.linear_grad, net_.batch * s.group_out);
      }
      buffers.add(&s.partial, g.slices * g.count);
    }
  }

  void launch() {
    buffers.allocate();
    int32_t linear_stage = 0;
    for (int32_t i = 0; i < pass.stage_count; ++i) {
      NetStage<Compute>& s = pass.stages[i];
      const ReadyStage<Stored>& r = ready.stages[i];
      if (r.ready != nullptr) s.weight = r.ready;
      if (r.ready_bias != nullptr) s.bias = r.ready_bias;
      s.back_weight = r.ready_back;
      summed.stages[i].partial = s.partial;
      if (s.linear_grad != nullptr) {
        LinearGrad<Compute>& l = linear.stages[linear_stage++];
        l.input = s.linear_input, l.grad = s.linear_grad, l.partial = s.partial;
      }
    }
    summed.bad = ready.bad, summed.losses = pass.losses;
    make_ready(op_, ready);
    launch_net(op_, launch_, pass);
    if (summed.stage_count == 0) return;
    linear_grads(op_, linear);
    sum_gradients(op_, summed);
  }

  NetPass<Compute> pass{};
  ReadyParameters<Stored> ready{};
  SummedParameters<Stored> summed{};
  LinearGrads<Compute> linear{};
  Buffers buffers;

 private:
  const char* op_;
  const NetShape& net_;
  NetPurpose purpose_;
  NetLaunch<Compute> launch_;
};

template <class Stored>
constexpr DType kStoredType = std::is_same_v<Stored, float>      ? DType::kFloat32
                              : std::is_same_v<Stored, double>   ? DType::kFloat64
                              : std::is_same_v<Stored, BFloat16> ? DType::kBFloat16
                                                                 : DType::kFloat16;

}  // namespace

template <class Stored>
void net_forward(const NetShape& net, const NetForward& p) {
  Run<Stored> run("net_forward", kStoredType<Stored>, net, p.images, {true, false, false});
  run.pass.output = p.output;
  if (p.saved != nullptr) run.set_saved(p.saved, p.taps);
  run.prepare(p.parameters);
  run.launch();
}

template <class Stored>
void net_backward(const NetShape& net, const NetBackward& p) {
  Run<Stored> run("net_backward", kStoredType<Stored>, net, p.images, {false, true, p.grad_input != nullptr});
  run.pass.grad_output = p.grad_output, run.pass.grad_input = p.grad_input;
  run.set_saved(const_cast<void*>(p.saved), const_cast<uint8_t*>(p.taps));
  run.prepare(p.parameters);
  if (p.grad_parameters != nullptr) run.prepare_gradients(p.grad_parameters);
  run.launch();
}

template <class Stored>
void net_train(const NetShape& net, const NetTrain& p) {
  Run<Stored> run("net_train", kStoredType<Stored>, net, p.images, {true, true, false});
  const bool classes = p.loss == Loss::kCrossEntropy;
  const int64_t outputs = net.stages.back().output_size;
  const double scale = 1.0 / static_cast<double>(classes ? net.batch : net.batch * outputs);
  run.pass.trains = true, run.pass.loss = p.loss, run.pass.targets = p.targets, run.pass.loss_scale = scale;
  run.prepare(p.parameters);
  run.prepare_gradients(p.parameters);
  run.buffers.add(&run.pass.losses, net.batch);
  run.buffers.add(&run.ready.bad, 1);
  auto* buffer = static_cast<Stored*>(p.buffers);
  for (int32_t i = 0; buffer != nullptr && i < run.pass.stage_count; ++i) {
    run.summed.stages[i].buffer = buffer;
    buffer += run.summed.stages[i].count;
  }
  run.ready.order = {p.images.order, net.batch, p.images.available};
  if (classes) run.ready.targets = {static_cast<const int64_t*>(p.targets), net.batch, outputs};
  run.summed.trains = true, run.summed.sgd = p.sgd, run.summed.lr = p.lr, run.summed.batch = net.batch;
  run.summed.loss_scale = scale, run.summed.mean_loss = static_cast<Stored*>(p.mean_loss);
  run.launch();
}

template void net_forward<float>(const NetShape&, const NetForward&);
template void net_forward<double>(const NetShape&, const NetForward&);
template void net_forward<BFloat16>(const NetShape&, const NetForward&);
template void net_forward<Float16>(const NetShape&, const NetForward&);
template void net_backward<float>(const NetShape&, const NetBackward&);
template void net_backward<double>(const NetShape&, const NetBackward&);
template void net_backward<BFloat16>(const NetShape&, const NetBackward&);
template void net_backward<Float16>(const NetShape&, const NetBackward&);
template void net_train<float>(const NetShape&, const NetTrain&);
template void net_train<double>(const NetShape&, const NetTrain&);
template void net_train<BFloat16>(const NetShape&, const NetTrain&);
template void net_train<Float16>(const NetShape&, const NetTrain&);

}  // namespace lenet_ext::cuda
