// Vectors of one value of each image of a tile, and the memory where they lie.
#pragma once

#include "cuda/common/activation.cuh"
#include "cuda/common/number.cuh"
#include "cuda/engine/pass.cuh"

namespace lenet_ext::cuda {

template <class Compute, int kImages>
using Values = Vector<Compute, kImages>;

// The values of the images that a block has at hand, and which images these are.
template <class Compute, int kImages>
struct Tile {
  unsigned char* memory;
  int32_t index;
  int32_t left;  // images of the batch from here on, as far as they fit

  // Image.
  __device__ int64_t first() const { return int64_t{index} * kImages; }
  // kImages, or fewer at the end of the batch.
  __device__ int32_t images() const { return kImages == 1 ? 1 : left; }
  // Whether this is the first tile that the block takes.
  __device__ bool is_first() const { return index == static_cast<int32_t>(blockIdx.x); }

  __device__ Values<Compute, kImages>* values(int64_t at) const {
    return reinterpret_cast<Values<Compute, kImages>*>(memory + at);
  }
  // Where a maximum was found: the offset in its input channel of the patch that it was computed from.
  __device__ int32_t* positions(int64_t at) const { return reinterpret_cast<int32_t*>(memory + at); }
};

// Where image i of the pass lies. An order that names no image is not followed out of the tensor: its step is
// not taken (parameters.cuh).
__device__ inline int64_t source_image(const Images& images, int64_t i) {
  if (images.order == nullptr) return i;
  const int64_t source = images.order[i];
  return source < 0 || source >= images.available ? 0 : source;
}

// Calls, so that the registers of exponentials are not those of each loop that ends in an activation.
template <class Compute>
__device__ __noinline__ Compute activated_otherwise(const ActivationCall& call, Compute value) {
  return OtherActivation(call).value(value);
}
template <class Compute>
__device__ __noinline__ Compute otherwise_activation_grad(const ActivationCall& call, Compute grad,
                                                          Compute output) {
  return OtherActivation(call).gradient(grad, output);
}

template <class Compute, int kImages>
__device__ Values<Compute, kImages> activated(const ActivationCall& call, Values<Compute, kImages> values) {
  if (call.kind == Activation::kNone) return values;
#pragma unroll
  for (int i = 0; i < kImages; ++i) {
    Compute& value = values.values[i];
    value = call.kind == Activation::kReLU ? ReLU::value(value) : activated_otherwise(call, value);
  }
  return values;
}

// The gradient before an activation, from that of its output, and the output.
template <class Compute, int kImages>
__device__ Values<Compute, kImages> activation_grad(const ActivationCall& call, Values<Compute, kImages> grad,
                                                    const Values<Compute, kImages>& output) {
  if (call.kind == Activation::kNone) return grad;
#pragma unroll
  for (int i = 0; i < kImages; ++i) {
    Compute& value = grad.values[i];
    value = call.kind == Activation::kReLU ? ReLU::gradient(value, output.values[i])
                                           : otherwise_activation_grad(call, value, output.values[i]);
  }
  return grad;
}

template <class Compute, int kImages>
__device__ Values<Compute, kImages> splat(Compute value) {
  Values<Compute, kImages> values;
#pragma unroll
  for (int i = 0; i < kImages; ++i) values.values[i] = value;
  return values;
}

// The threads of a block share out tasks 0 ... count - 1.
template <class Body>
__device__ void for_each_task(int32_t count, const Body& body) {
  for (int32_t task = threadIdx.x; task < count; task += kTileThreads) body(task);
}

// The same for tasks whose threads exchange values within a warp: all of it calls the body, with a task that
// may lie beyond the last.
template <class Body>
__device__ void for_each_task_of_warps(int32_t count, const Body& body) {
  for (int32_t first = threadIdx.x / kWarpSize * kWarpSize; first < count; first += kTileThreads) {
    body(first + static_cast<int32_t>(threadIdx.x % kWarpSize));
  }
}

// The padding around the values, if there is any, in which kernels find zeros.
template <class Compute, int kImages>
__device__ void clear_padding(const Tile<Compute, kImages>& tile, const View& view) {
  if (view.is_dense()) return;
  auto* const values = tile.values(view.at);
  for_each_task(view.size, [&](int32_t i) { values[i] = splat<Compute, kImages>(0); });
  __syncthreads();
}

// [image][size] in the device's memory, from values that lie side by side.
template <class Compute, int kImages>
__device__ void copy_out(const Tile<Compute, kImages>& tile, const View& view, int32_t size,
                         Compute* target) {
  const auto* const values = tile.values(view.at);
  for_each_task(size, [&](int32_t i) {
    const Values<Compute, kImages> v = values[view.index(i)];
#pragma unroll
    for (int image = 0; image < kImages; ++image) {
      if (image < tile.images()) target[(tile.first() + image) * size + i] = v.values[image];
    }
  });
}

}  // namespace lenet_ext::cuda
