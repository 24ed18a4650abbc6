// The passes of the fused engine: weights are made ready, a kernel takes tiles of images through all stages
// (tile.cuh), and the gradients that its blocks leave are summed, as they are or as the step of an optimizer.
#include <functional>
#include <optional>

#include "cuda/engine/launch.h"
#include "cuda/engine/linear_grad.cuh"
#include "cuda/engine/parameters.cuh"
#include "cuda/kernel_table.h"

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

  Run(const Network& net, const Images& images, const TilePurpose& purpose) : net_(net), purpose_(purpose) {
    pass.dtype = kDTypeOf<Stored>, pass.images = images;
    pass.forward = purpose.forward, pass.backward = purpose.backward;
    launch_ = plan_tile(net, images.count, purpose, pass);
    buffers.add(&pass.workspace, launch_.workspace_bytes);
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  // Where a pass for backward leaves the outputs of stages and the argmax; `saved` [stage][image][values].
  void set_saved(void* saved, uint8_t* argmax) {
    for (int32_t i = 0; i < pass.stage_count; ++i) {
      TileStage<Compute>& s = pass.stages[i];
      s.saved = static_cast<Compute*>(saved) + net_.values_before(static_cast<size_t>(i)) * pass.batch;
      if (s.pooled) s.argmax = argmax + net_.argmax_before(static_cast<size_t>(i)) * pass.batch;
    }
  }

  void prepare(const void* const* parameters) {
    ready.stage_count = pass.stage_count;
    for (int32_t i = 0; i < pass.stage_count; ++i) {
      const Stage& stage = net_.stages[i];
      TileStage<Compute>& s = pass.stages[i];
      ReadyStage<Stored>& r = ready.stages[i];
      r = {};
      if (stage.weight < 0) continue;
      r.is_conv2d = s.core == Stage::Core::kConv2d;
      r.group_in = s.group_in, r.group_out = s.group_out, r.taps = s.rows.kernel * s.columns.kernel;
      r.weight_stride = s.weight_stride, r.back_stride = s.back_stride;
      r.weight = static_cast<const Stored*>(parameters[stage.weight]);
      if (stage.bias >= 0) r.bias = static_cast<const Stored*>(parameters[stage.bias]);
      const bool wants_back = r.is_conv2d && purpose_.backward && (i > 0 || purpose_.input_grad);
      if (r.is_conv2d) {
        r.ready_count = int64_t{s.groups} * s.group_in * r.taps * s.weight_stride;
      } else if (!kSameType) {
        r.ready_count = s.weight_count;
      }
      if (wants_back) r.back_count = int64_t{s.groups} * s.group_out * r.taps * s.back_stride;
      if (!kSameType) r.bias_count = stage.bias_size;
      if constexpr (kSameType) s.weight = r.weight, s.bias = r.bias;
      if (r.ready_count > 0) buffers.add(&r.ready, r.ready_count);
      if (r.back_count > 0) buffers.add(&r.ready_back, r.back_count);
      if (r.bias_count > 0) buffers.add(&r.ready_bias, r.bias_count);
    }
  }

  // target(parameter): where the gradient of a parameter goes.
  template <class Target>
  void prepare_gradients(const Target& target) {
    summed.stage_count = pass.stage_count;
    linear.batch = pass.batch;
    for (int32_t i = 0; i < pass.stage_count; ++i) {
      const Stage& stage = net_.stages[i];
      TileStage<Compute>& s = pass.stages[i];
      SummedStage<Stored>& g = summed.stages[i];
      g = {};
      if (stage.weight < 0) continue;
      g.count = s.parameter_count, g.weight_count = s.weight_count;
      g.weight = target(stage.weight);
      if (stage.bias >= 0) g.bias = target(stage.bias);
      if (s.core == Stage::Core::kConv2d) {
        g.slices = launch_.blocks;
      } else {
        LinearGrad<Compute>& l = linear.stages[linear.stage_count++];
        l = {};
        l.in_features = s.group_in, l.out_features = s.group_out, l.count = s.parameter_count;
        l.bias = stage.bias >= 0;
        choose_splits(l, pass.batch);
        g.slices = l.splits;
        buffers.add(&s.linear_input, pass.batch * s.group_in);
        buffers.add(&s.linear_grad, pass.batch * s.group_out);
      }
      buffers.add(&s.partial, g.slices * g.count);
    }
  }

  void launch() {
    const char* const op = net_.name.c_str();
    buffers.allocate();
    int32_t linear_stage = 0;
    for (int32_t i = 0; i < pass.stage_count; ++i) {
      TileStage<Compute>& s = pass.stages[i];
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
    summed.bad = pass.bad = ready.bad, summed.losses = pass.losses;
    summed.loss_divisor = pass.loss.divisor = ready.targets.divisor;
    summed.rows = ready.step.rows;
    make_ready(op, ready);
    launch_tile(op, launch_, pass);
    if (summed.stage_count == 0) return;
    linear_grads(op, linear);
    sum_gradients(op, summed);
  }

  TilePass<Compute> pass{};
  ReadyParameters<Stored> ready{};
  SummedParameters<Stored> summed{};
  LinearGrads<Compute> linear{};
  Buffers buffers;

 private:
  const Network& net_;
  TilePurpose purpose_;
  TileLaunch<Compute> launch_;
};

template <class Stored>
void forward(const NetworkPtr& net, const ForwardPass& p) {
  Run<Stored> run(*net, p.images, {.forward = true, .backward = false, .input_grad = false});
  run.pass.output = p.outputs[0];
  if (p.saved != nullptr) run.set_saved(p.saved, p.argmax);
  run.prepare(p.parameters);
  run.launch();
}

template <class Stored>
void backward(const NetworkPtr& net, const BackwardPass& p) {
  Run<Stored> run(*net, p.images,
                  {.forward = false, .backward = true, .input_grad = p.grad_input != nullptr});
  run.pass.grad_output = p.grad_outputs[0], run.pass.grad_input = p.grad_input;
  run.set_saved(const_cast<void*>(p.saved), const_cast<uint8_t*>(p.argmax));
  run.prepare(p.parameters);
  if (p.grad_parameters != nullptr) {
    run.prepare_gradients([&](int parameter) {
      return SummedParameter<Stored>{static_cast<Stored*>(p.grad_parameters[parameter]), 0, {}};
    });
  }
  run.launch();
}

template <class Stored>
void train(const NetworkPtr& net, const TrainPass& p) {
  if (net->max_grad_norm) fail(net->name, ": max_grad_norm is there on the CPU only");
  if (shares_parameters(*net, p)) fail(net->name, ": on CUDA no parameter may be used twice");
  Run<Stored> run(*net, p.images, {.forward = true, .backward = true, .input_grad = false});
  const Loss& loss = *net->loss;
  const bool hard = loss.is_of_classes() && !p.loss.soft;
  const int64_t batch = p.images.count, outputs = net->output_size();
  const int64_t classes = loss.is_of_classes() ? std::max<int64_t>(net->output_sizes()[0], 1) : 1;
  const int64_t positions = outputs / classes;
  run.pass.trains = true;
  run.pass.loss = {loss.kind,
                   loss.is_of_classes(),
                   static_cast<int32_t>(classes),
                   static_cast<int32_t>(positions),
                   loss.ignored(),
                   loss.label_smoothing(),
                   loss.width(),
                   p.loss,
                   p.targets,
                   nullptr};
  run.prepare(p.parameters);
  const size_t count = net->parameter_sizes.size();
  run.prepare_gradients([&](int parameter) {
    SummedParameter<Stored> target{static_cast<Stored*>(p.parameters[parameter]), parameter, {}};
    const size_t states = kOptimizers[static_cast<int>(*net->optimizer)].state.size();
    for (size_t k = 0; k < states; ++k) {
      target.state[k] = static_cast<Stored*>(p.state[k * count + static_cast<size_t>(parameter)]);
    }
    return target;
  });
  run.buffers.add(&run.pass.losses, batch);
  run.buffers.add(&run.ready.bad, 1);
  run.buffers.add(&run.ready.step.rows, static_cast<int64_t>(count));
  BeginStep& begin = run.ready.step;
  begin.optimizer = *net->optimizer, begin.options = p.options, begin.steps = p.steps;
  begin.option_count = options_per_parameter(*net) - 1, begin.parameters = static_cast<int64_t>(count);
  run.ready.order = {p.images.order, batch, p.images.available};
  run.ready.targets = {hard ? static_cast<const int64_t*>(p.targets) : nullptr,
                       positions,
                       classes,
                       loss.ignored(),
                       p.loss.weight,
                       kDTypeOf<Stored>,
                       nullptr,
                       !loss.mean ? 1 : static_cast<double>(hard ? 0 : batch * positions)};
  run.buffers.add(&run.ready.targets.divisor, 1);
  run.summed.trains = true, run.summed.optimizer = *net->optimizer, run.summed.batch = batch;
  run.summed.batch_loss = static_cast<Stored*>(p.batch_loss);
  run.launch();
}

const Entry entry([]<class Stored>(std::type_identity<Stored>, TypedKernels& typed, Kernels&) {
  typed.network = {.forward = &forward<Stored>, .backward = &backward<Stored>, .train = &train<Stored>};
});

}  // namespace
}  // namespace lenet_ext::cuda
