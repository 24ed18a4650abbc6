// Calls of every kernel for one dtype.
#pragma once

#include <initializer_list>
#include <memory>
#include <vector>

#include "arrays.h"
#include "engine/network_builder.h"
#include "kernels.h"

namespace lenet_ext {

class Calls {
 public:
  Calls(const Kernels& kernels, DType dtype) : kernels_(kernels), typed_(kernels[dtype]), dtype_(dtype) {}

  void conv2d(const Conv2dShape& s, Format format) {
    const int64_t in = s.batch * s.in_channels * s.height * s.width;
    const int64_t out = s.batch * s.out_channels * s.out_height * s.out_width;
    const int64_t weights = s.out_channels * s.group_in() * s.kernel_height * s.kernel_width;
    const Array x = numbers(dtype_, in, 1), w = numbers(dtype_, weights, 2),
                b = numbers(dtype_, s.out_channels, 3), gy = numbers(dtype_, out, 4);
    const Array y(dtype_, out), gx(dtype_, in), gw(dtype_, weights), gb(dtype_, s.out_channels);
    typed_.conv2d.forward(s, format, x.get(), w.get(), b.get(), y.get());
    typed_.conv2d.input_grad(s, format, gy.get(), w.get(), gx.get());
    typed_.conv2d.weight_grad(s, format, gy.get(), x.get(), gw.get(), gb.get());
    collect({&y, &gx, &gw, &gb});
  }

  void max_pool2d(const MaxPool2dShape& s, Format format) {
    const int64_t in = s.planes() * s.height * s.width, out = s.planes() * s.out_height * s.out_width;
    const Array x = numbers(dtype_, in, 1), gy = numbers(dtype_, out, 2);
    const Array y(dtype_, out), gx(dtype_, in), argmax(out * (s.byte_argmax() ? 1 : 4)), indices(out * 8);
    typed_.max_pool2d.forward(s, format, x.get(), y.get(), argmax.get());
    typed_.max_pool2d.input_grad(s, format, gy.get(), argmax.get(), gx.get());
    kernels_.max_pool2d_indices(s, format, argmax.get(), indices.get<int64_t>());
    collect({&y, &gx, &argmax, &indices});
  }

  void linear(const LinearShape& s) {
    const int64_t in = s.members * s.input_elements(), out = s.members * s.output_elements(),
                  weights = s.members * s.weight_elements(), biases = s.members * s.out_features;
    const Array x = numbers(dtype_, in, 1), w = numbers(dtype_, weights, 2), b = numbers(dtype_, biases, 3),
                gy = numbers(dtype_, out, 4);
    const Array y(dtype_, out), gx(dtype_, in), gw(dtype_, weights), gb(dtype_, biases);
    typed_.linear.forward(s, x.get(), w.get(), b.get(), y.get());
    typed_.linear.input_grad(s, gy.get(), w.get(), gx.get());
    typed_.linear.weight_grad(s, gy.get(), x.get(), gw.get(), gb.get());
    collect({&y, &gx, &gw, &gb});
  }

  void activation(const ActivationCall& call, int64_t count) {
    const Array x = numbers(dtype_, count, 1), y(dtype_, count), gx(dtype_, count);
    typed_.activation.forward(call, count, x.get(), y.get());
    typed_.activation.input_grad(call, count, x.get(), y.get(), gx.get());
    collect({&y, &gx});
  }

  // A forward and a backward pass, and two training steps on bytes in an order of their own.
  void network(int64_t batch, int64_t kernel, int64_t features);

  Results results() { return std::move(results_); }

 private:
  void collect(std::initializer_list<const Array*> arrays) {
    for (const Array* array : arrays) {
      const auto* first = array->get<const unsigned char>();
      results_.push_back({array->dtype, {first, first + array->bytes}});
    }
  }
  void collect(const std::vector<Array>& arrays) {
    for (const Array& array : arrays) collect({&array});
  }

  const Kernels& kernels_;
  const TypedKernels& typed_;
  DType dtype_;
  Results results_;
};

inline void Calls::network(int64_t batch, int64_t kernel, int64_t features) {
  constexpr int64_t kClasses = 5;
  constexpr const char* kProgram =  // as the operators take it (engine/description.h)
      "network\n"
      "conv2d 0 | 0 1 | 1 1 0 0 0 0 1 1 1 | |\n"
      "relu 1 | | | |\n"
      "max_pool2d 2 | | 2 2 2 2 0 0 1 1 0 | |\n"
      "flatten 3 | | | |\n"
      "linear 4 | 2 3 | | |\n"
      "relu 5 | | | |\n"
      "linear 6 | 4 5 | | |\n"
      "loss cross_entropy\n"
      "optimizer SGD\n"
      "return 7\n";
  const int64_t size = 4 + 2 * (kernel - 1), pooled = (size - kernel + 1) / 2;
  const std::vector<SizeList> sizes = {
      {6, 3, kernel, kernel}, {6},       {features, 6 * pooled * pooled}, {features},
      {kClasses, features},   {kClasses}};
  const Description description = DescriptionReader(kProgram).read();
  const auto net = std::make_shared<const Network>(
      NetworkBuilder(description, SizeList{batch, 3, size, size}, {sizes.begin(), sizes.end()}).build());

  std::vector<Array> parameters, grads, momenta;
  std::vector<void*> parameter_data, grad_data, momentum_data;
  for (const int64_t count : net->parameter_sizes) {
    parameter_data.push_back(parameters.emplace_back(numbers(dtype_, count, 3)).get());
    grad_data.push_back(grads.emplace_back(dtype_, count).get());
    momentum_data.push_back(momenta.emplace_back(numbers(dtype_, count, 4)).get());
  }
  const DType compute = dtype_ == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const Array x = numbers(dtype_, batch * net->image_size(), 1), gy = numbers(dtype_, batch * kClasses, 2);
  const Array y(dtype_, batch * kClasses), gx(dtype_, batch * net->image_size()),
      saved(compute, net->saved_size(batch)), argmax(batch * net->argmax_before(net->stages.size()));
  const Images images{.data = x.get(),
                      .count = batch,
                      .order = nullptr,
                      .available = batch,
                      .bytes = false,
                      .scale = nullptr,
                      .shift = nullptr};
  void* const outputs[] = {y.get()};
  const void* const grad_outputs[] = {gy.get()};
  typed_.network.forward(net, {.images = images,
                               .parameters = parameter_data.data(),
                               .seed = 0,
                               .outputs = outputs,
                               .saved = saved.get(),
                               .argmax = argmax.get<uint8_t>()});
  typed_.network.backward(net, {.images = images,
                                .parameters = parameter_data.data(),
                                .seed = 0,
                                .grad_outputs = grad_outputs,
                                .saved = saved.get(),
                                .argmax = argmax.get<uint8_t>(),
                                .grad_input = gx.get(),
                                .grad_parameters = grad_data.data()});
  collect({&y, &gx});
  collect(grads);

  std::vector<uint8_t> bytes(batch * net->image_size());
  std::vector<int64_t> targets(batch), order(batch);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 7);
  for (int64_t i = 0; i < batch; ++i) targets[i] = i % kClasses, order[i] = batch - 1 - i;
  const std::vector<float> scale(3, 1.0f / 255), shift(3, -0.5f);
  std::vector<double> options;  // that a parameter changes, and SgdOptions
  for (size_t i = 0; i < parameters.size(); ++i) {
    options.insert(options.end(), {1, /*lr=*/0.1, /*momentum=*/0.9, /*dampening=*/0, /*weight_decay=*/1e-4,
                                   /*nesterov=*/1, /*maximize=*/0});
  }
  const Array loss(dtype_, 1);
  for (int step = 0; step < 2; ++step) {
    typed_.network.train(net, {.images = {.data = bytes.data(),
                                          .count = batch,
                                          .order = order.data(),
                                          .available = batch,
                                          .bytes = true,
                                          .scale = scale.data(),
                                          .shift = shift.data()},
                               .targets = targets.data(),
                               .parameters = parameter_data.data(),
                               .seed = 0,
                               .statistics = nullptr,
                               .options = options.data(),
                               .state = momentum_data.data(),
                               .steps = nullptr,
                               .batch_loss = loss.get()});
    collect({&loss});
  }
  collect(parameters);
  collect(momenta);
}

}  // namespace lenet_ext
