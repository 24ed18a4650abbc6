// Every kernel of one instruction set without torch, for ThreadSanitizer and valgrind: twice on one thread,
// on three threads, and from three threads at once. All six runs must give the same bits.
//
// KERNELS is the table, for example scalar_kernels. Arrays are of exactly the size that a kernel may touch,
// and outputs are not initialised.
#include "kernels.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "cpu/max_pool2d/indices.h"

namespace lenet_ext::cpu {

extern const Kernels KERNELS;

namespace {
thread_local int threads = 1;
}

// As torch's: the calling thread takes the first range, and what runs on the others has no threads of its
// own.
void run_parallel(int64_t count, int64_t grain, RangeBody body, void* context) {
  const int64_t parts = std::min<int64_t>(threads, (count + grain - 1) / grain);
  const auto begin = [=](int64_t part) { return count * part / parts; };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < parts; ++i) {
    others.emplace_back([=] { body(context, begin(i), begin(i + 1)); });
  }
  body(context, 0, begin(1));
  for (std::thread& other : others) other.join();
}

namespace {

using Bytes = std::vector<unsigned char>;

int64_t element_bytes(DType dtype) {
  constexpr int64_t kBytes[] = {4, 8, 2, 2};
  return kBytes[static_cast<int>(dtype)];
}

// Small whole numbers, the same on every call.
template <class Stored>
void fill(void* data, int64_t count, uint32_t state) {
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    from_compute(static_cast<ComputeType<Stored>>(static_cast<int>(state >> 29) - 3),
                 static_cast<Stored*>(data)[i]);
  }
}

// malloc and no vector: what a kernel fails to write stays uninitialised, for valgrind to see.
struct Array {
  int64_t bytes;
  std::unique_ptr<void, void (*)(void*)> data;

  Array(DType dtype, int64_t count)
      : bytes(count * element_bytes(dtype)), data(std::malloc(bytes), &std::free) {}
  void* get() const { return data.get(); }
};

Array numbers(DType dtype, int64_t count, uint32_t seed) {
  Array array(dtype, count);
  switch (dtype) {
    case DType::kFloat32:
      fill<float>(array.get(), count, seed);
      break;
    case DType::kFloat64:
      fill<double>(array.get(), count, seed);
      break;
    case DType::kBFloat16:
      fill<BFloat16>(array.get(), count, seed);
      break;
    case DType::kFloat16:
      fill<Float16>(array.get(), count, seed);
      break;
  }
  return array;
}

void collect(Bytes& results, const void* data, int64_t bytes) {
  const auto* first = static_cast<const unsigned char*>(data);
  results.insert(results.end(), first, first + bytes);
}

void collect(Bytes& results, const Array& array) {
  collect(results, array.get(), array.bytes);
}

void conv2d(const Conv2dShape& s, DType dtype, Format format, Bytes& results) {
  const TypedKernels& kernels = KERNELS[dtype];
  const int64_t in = s.batch * s.in_channels * s.height * s.width;
  const int64_t out = s.batch * s.out_channels * s.out_height * s.out_width;
  const int64_t weights = s.out_channels * s.group_in() * s.kernel_height * s.kernel_width;
  const Array x = numbers(dtype, in, 1), w = numbers(dtype, weights, 2),
              b = numbers(dtype, s.out_channels, 3), gy = numbers(dtype, out, 4);
  const Array y(dtype, out), gx(dtype, in), gw(dtype, weights), gb(dtype, s.out_channels);
  kernels.conv2d(s, format, x.get(), w.get(), b.get(), y.get());
  kernels.conv2d_input_grad(s, format, gy.get(), w.get(), gx.get());
  kernels.conv2d_weight_grad(s, format, gy.get(), x.get(), gw.get(), gb.get());
  for (const Array* array : {&y, &gx, &gw, &gb}) collect(results, *array);
}

void max_pool2d(const MaxPool2dShape& s, DType dtype, Format format, Bytes& results) {
  const int64_t in = s.planes() * s.height * s.width, out = s.planes() * s.out_height * s.out_width;
  const Array x = numbers(dtype, in, 1), gy = numbers(dtype, out, 2);
  const Array y(dtype, out), gx(dtype, in), indices(DType::kFloat64, out);
  const std::unique_ptr<char[]> taps(new char[out * (s.byte_taps() ? 1 : 4)]);
  KERNELS[dtype].max_pool2d(s, format, x.get(), y.get(), taps.get());
  KERNELS[dtype].max_pool2d_input_grad(s, format, gy.get(), taps.get(), gx.get());
  max_pool2d_indices(s, format, taps.get(), static_cast<int64_t*>(indices.get()));
  for (const Array* array : {&y, &gx, &indices}) collect(results, *array);
}

void linear(const LinearShape& s, DType dtype, Bytes& results) {
  const int64_t in = s.members * s.input_elements(), out = s.members * s.output_elements(),
                weights = s.members * s.weight_elements(), biases = s.members * s.out_features;
  const Array x = numbers(dtype, in, 1), w = numbers(dtype, weights, 2), b = numbers(dtype, biases, 3),
              gy = numbers(dtype, out, 4);
  const Array y(dtype, out), gx(dtype, in), gw(dtype, weights), gb(dtype, biases);
  KERNELS[dtype].linear(s, x.get(), w.get(), b.get(), y.get());
  KERNELS[dtype].linear_input_grad(s, gy.get(), w.get(), gx.get());
  KERNELS[dtype].linear_weight_grad(s, gy.get(), x.get(), gw.get(), gb.get());
  for (const Array* array : {&y, &gx, &gw, &gb}) collect(results, *array);
}

void relu(int64_t count, DType dtype, Bytes& results) {
  const Array x = numbers(dtype, count, 1), y(dtype, count), gx(dtype, count);
  KERNELS[dtype].relu(count, x.get(), y.get());
  KERNELS[dtype].relu_grad(count, x.get(), y.get(), gx.get());
  collect(results, y), collect(results, gx);
}

// conv2d 3x3 or 5x5, relu, pool; linear: forward, backward and two training steps.
void net(int64_t batch, int64_t kernel, int64_t features, DType dtype, Bytes& results) {
  const int64_t image = 4 + 2 * (kernel - 1), pooled = (image - kernel + 1) / 2, classes = 5;
  const std::vector<SizeList> sizes = {
      {6, 3, kernel, kernel}, {6}, {features, 6 * pooled * pooled}, {features}, {classes, features}};
  const std::vector<Sizes> parameter_sizes(sizes.begin(), sizes.end());
  const SizeList input_sizes = {batch, 3, image, image},
                 program = {1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2,
                            2, 0, 0, 1, 1, 0, 2, 1, 1, 0, 0, 2, 0, 0, 0, 0};
  const NetShape shape = net_shape("net", input_sizes, parameter_sizes, program);
  const DType compute = dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const Array x = numbers(dtype, batch * 3 * image * image, 1), gy = numbers(dtype, batch * classes, 2);
  const Array y(dtype, batch * classes), gx(dtype, batch * 3 * image * image), loss(dtype, 1),
      saved(compute, batch * shape.saved_elements());
  std::vector<uint8_t> taps(shape.tap_offset(shape.stages.size(), batch));
  std::vector<int64_t> targets(batch);
  for (int64_t i = 0; i < batch; ++i) targets[i] = i % classes;
  std::vector<Array> parameters, grads;
  std::vector<void*> pointers, grad_pointers;
  for (const Sizes& parameter : parameter_sizes) {
    const int64_t count = element_count("net", parameter);
    pointers.push_back(parameters.emplace_back(numbers(dtype, count, 3)).get());
    grad_pointers.push_back(grads.emplace_back(dtype, count).get());
  }
  const Array buffers = numbers(dtype, shape.parameter_count(), 4);
  const NetImages images{x.get(), nullptr, batch, false, nullptr, nullptr};
  const TypedKernels& kernels = KERNELS[dtype];
  kernels.net_forward(shape, {images, pointers.data(), y.get(), saved.get(), taps.data()});
  kernels.net_backward(
      shape, {images, pointers.data(), gy.get(), saved.get(), taps.data(), gx.get(), grad_pointers.data()});
  for (const Array* array : {&y, &gx}) collect(results, *array);
  for (const Array& grad : grads) collect(results, grad);
  for (int step = 0; step < 2; ++step) {
    kernels.net_train(shape, {images,
                              targets.data(),
                              Loss::kCrossEntropy,
                              {1e-4, 0.9, 0.1, true},
                              nullptr,
                              pointers.data(),
                              buffers.get(),
                              loss.get()});
    collect(results, loss);
  }
  for (const Array& parameter : parameters) collect(results, parameter);
}

Bytes results_of(DType dtype, int with_threads) {
  threads = with_threads;
  Bytes results;
  for (Format format : {Format::kContiguous, Format::kChannelsLast}) {
    const auto conv = [&](SizeList input, SizeList weight, const Conv2dParameters& p) {
      conv2d(conv2d_shape("conv2d", input, weight, p), dtype, format, results);
    };
    conv({9, 3, 14, 15}, {6, 3, 5, 5}, {1, 1, 0, 0, 0, 0, 1, 1, 1});
    conv({1, 17, 19, 21}, {33, 17, 3, 3}, {1, 1, 1, 1, 1, 1, 1, 1, 1});
    conv({3, 9, 17, 13}, {18, 1, 3, 2}, {2, 1, 1, 0, 2, 1, 1, 2, 9});
    conv({3, 33, 7, 7}, {17, 33, 1, 1}, {1, 1, 0, 0, 0, 0, 1, 1, 1});
    const auto pool = [&](SizeList input, const MaxPool2dParameters& p, bool ceil_mode) {
      max_pool2d(max_pool2d_shape("max_pool2d", input, p, ceil_mode), dtype, format, results);
    };
    pool({5, 17, 28, 28}, {2, 2, 2, 2, 0, 0, 1, 1}, false);
    pool({5, 17, 19, 21}, {3, 3, 2, 1, 1, 1, 1, 2}, true);
    pool({2, 3, 40, 40}, {17, 17, 3, 3, 8, 8, 1, 1}, false);
  }
  linear({67, 130, 65}, dtype, results);
  linear({1, 1025, 129}, dtype, results);
  linear({7, 40, 33, 50}, dtype, results);
  relu(40'003, dtype, results);
  net(37, 3, 40, dtype, results);
  net(37, 5, 33, dtype, results);
  net(5, 3, 1030, dtype, results);  // a wide layer
  return results;
}

}  // namespace
}  // namespace lenet_ext::cpu

int main() {
  using namespace lenet_ext;
  constexpr const char* kNames[] = {"float32", "float64", "bfloat16", "float16"};
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    std::vector<cpu::Bytes> runs(6);
    runs[0] = cpu::results_of(dtype, 1);
    runs[1] = cpu::results_of(dtype, 1);  // with the scratch memory of the first
    runs[2] = cpu::results_of(dtype, 3);
    std::vector<std::thread> callers;
    for (int j = 3; j < 6; ++j) callers.emplace_back([&, j] { runs[j] = cpu::results_of(dtype, j % 2 + 1); });
    for (std::thread& caller : callers) caller.join();
    for (const cpu::Bytes& run : runs) {
      if (run != runs[0]) return std::fprintf(stderr, "%s: runs differ\n", kNames[i]), 1;
    }
    std::printf("%s: %zu bytes of results, the same in 6 runs\n", kNames[i], runs[0].size());
  }
  return 0;
}
