// The kernel of the fused engine: blocks take tiles of a few images through all stages, forward, then the
// loss, then backward, with the values in between in shared memory. Where they do not fit, each block has a
// part of the device's memory for them instead.
#pragma once

#include "cuda/engine/conv2d.cuh"
#include "cuda/engine/linear.cuh"
#include "cuda/engine/loss.cuh"
#include "cuda/engine/pool.cuh"

namespace lenet_ext::cuda {

// body(std::integral_constant<int, C>) for the channels that a thread computes.
template <class Body>
__device__ void with_chunk(int32_t chunk, const Body& body) {
  switch (chunk) {
    case 8:
      return body(std::integral_constant<int, 8>{});
    case 6:
      return body(std::integral_constant<int, 6>{});
    case 4:
      return body(std::integral_constant<int, 4>{});
    default:
      return body(std::integral_constant<int, 1>{});
  }
}

// The images, normalised if they are bytes; zeros for those that are not there, and around them.
template <class Compute, int kImages>
__device__ void load_images(const TilePass<Compute>& pass, const Tile<Compute, kImages>& tile) {
  const Images& images = pass.images;
  const int32_t size = pass.stages[0].input_size, plane = pass.input.height * pass.input.width;
  clear_padding(tile, pass.input);
  auto* const values = tile.values(pass.input.at);
  int64_t sources[kImages];
#pragma unroll
  for (int image = 0; image < kImages; ++image) {
    sources[image] = image < tile.images() ? source_image(images, tile.first() + image) * size : 0;
  }
  for_each_task(size, [&](int32_t i) {
    Values<Compute, kImages> v = splat<Compute, kImages>(0);
    const int32_t channel = images.bytes ? divide(i, plane).quotient : 0;
#pragma unroll
    for (int image = 0; image < kImages; ++image) {
      if (image >= tile.images()) break;
      v.values[image] = images.bytes ? static_cast<const uint8_t*>(images.data)[sources[image] + i] *
                                               static_cast<Compute>(images.scale[channel]) +
                                           static_cast<Compute>(images.shift[channel])
                                     : load_stored<Compute>(images.data, pass.dtype, sources[image] + i);
    }
    values[pass.input.index(i)] = v;
  });
}

template <class Compute, int kImages>
__device__ void stage_forward(const TileStage<Compute>& s, const Tile<Compute, kImages>& tile) {
  clear_padding(tile, s.output);
  switch (s.core) {
    case Stage::Core::kConv2d:
      with_chunk(s.chunk, [&](auto chunk) {
        conv2d_forward<chunk>(s, tile, s.pooled ? s.core_output : s.output,
                              s.pooled ? ActivationCall{} : s.activation);
      });
      break;
    case Stage::Core::kLinear:
      if (s.linear_input != nullptr) copy_out(tile, s.input, s.input_size, s.linear_input);
      linear_forward(s, tile);
      break;
    case Stage::Core::kNone:
      if (s.pooled) break;
      for_each_task(s.output_size, [&](int32_t i) {
        const auto v = tile.values(s.input.at)[s.input.index(i)];
        tile.values(s.output.at)[s.output.index(i)] = activated(s.activation, v);
      });
  }
  if (s.pooled) {
    __syncthreads();
    pool_forward(s, tile);
  }
  __syncthreads();
  if (s.saved != nullptr) copy_out(tile, s.output, s.output_size, s.saved);
}

// What stage_forward left to an earlier call.
template <class Compute, int kImages>
__device__ void load_saved(const TileStage<Compute>& s, const Tile<Compute, kImages>& tile) {
  clear_padding(tile, s.output);
  auto* const values = tile.values(s.output.at);
  for_each_task(s.output_size, [&](int32_t i) {
    Values<Compute, kImages> v = splat<Compute, kImages>(0);
#pragma unroll
    for (int image = 0; image < kImages; ++image) {
      if (image < tile.images()) v.values[image] = s.saved[(tile.first() + image) * s.output_size + i];
    }
    values[s.output.index(i)] = v;
  });
  if (s.pooled) load_positions(s, tile);
  if (s.linear_input != nullptr) copy_out(tile, s.input, s.input_size, s.linear_input);
}

// The gradient of the last output as it was given.
template <class Compute, int kImages>
__device__ void load_grad_output(const TilePass<Compute>& pass, const TileStage<Compute>& last,
                                 const Tile<Compute, kImages>& tile) {
  auto* const grad = tile.values(last.grad_at);
  for_each_task(last.output_size, [&](int32_t i) {
    Values<Compute, kImages> v = splat<Compute, kImages>(0);
#pragma unroll
    for (int image = 0; image < kImages; ++image) {
      if (image < tile.images()) {
        v.values[image] =
            load_stored<Compute>(pass.grad_output, pass.dtype, (tile.first() + image) * last.output_size + i);
      }
    }
    grad[i] = v;
  });
}

// From the gradient of the stage's output to those of its parameters and of its input.
template <class Compute, int kImages>
__device__ void stage_backward(const TileStage<Compute>& s, const Tile<Compute, kImages>& tile) {
  const bool wants_input_grad = s.input_grad_at != kNowhere;
  const auto* const grad = tile.values(s.grad_at);
  switch (s.core) {
    case Stage::Core::kConv2d:
      if (s.pooled && wants_input_grad) {
        pool_input_grad(s, tile, tile.values(s.core_grad_at), ActivationCall{});
        __syncthreads();
      }
      if (wants_input_grad) {
        const auto* const core_grad = s.pooled ? tile.values(s.core_grad_at) : grad;
        with_chunk(s.back_chunk, [&](auto chunk) { conv2d_input_grad<chunk>(s, tile, core_grad); });
      }
      if (s.partial != nullptr) {
        conv2d_weight_grad(s, tile, s.partial + blockIdx.x * s.parameter_count);
      }
      break;
    case Stage::Core::kLinear:
      if (s.linear_grad != nullptr) copy_out(tile, dense_view(s.grad_at), s.output_size, s.linear_grad);
      if (wants_input_grad) linear_input_grad(s, tile);
      break;
    case Stage::Core::kNone:
      if (!wants_input_grad) break;
      if (s.pooled) {
        pool_input_grad(s, tile, tile.values(s.input_grad_at), s.input_activation);
      } else {
        for_each_task(s.input_size, [&](int32_t i) {
          const auto input = tile.values(s.input.at)[s.input.index(i)];
          tile.values(s.input_grad_at)[i] = activation_grad(s.input_activation, grad[i], input);
        });
      }
  }
  __syncthreads();
}

template <class Compute, int kImages>
__device__ void store_rows(const Tile<Compute, kImages>& tile, const View& view, int32_t size, void* target,
                           DType dtype) {
  const auto* const values = tile.values(view.at);
  for_each_task(size, [&](int32_t i) {
    const auto v = values[view.index(i)];
#pragma unroll
    for (int image = 0; image < kImages; ++image) {
      if (image < tile.images())
        store_stored<Compute>(target, dtype, (tile.first() + image) * size + i, v.values[image]);
    }
  });
}

template <class Compute, int kImages>
__device__ void backward(const TilePass<Compute>& pass, const Tile<Compute, kImages>& tile) {
  const TileStage<Compute>& last = pass.stages[pass.stage_count - 1];
  if (pass.trains) {
    loss_and_grad(pass, last, tile);
  } else {
    load_grad_output(pass, last, tile);
  }
  __syncthreads();
  if (last.activation.kind != Activation::kNone) {
    for_each_task(last.output_size, [&](int32_t i) {
      auto* const grad = tile.values(last.grad_at);
      grad[i] = activation_grad(last.activation, grad[i], tile.values(last.output.at)[last.output.index(i)]);
    });
    __syncthreads();
  }
  for (int32_t i = pass.stage_count - 1; i >= 0; --i) stage_backward(pass.stages[i], tile);
  if (pass.grad_input != nullptr) {
    const TileStage<Compute>& first = pass.stages[0];
    store_rows(tile, dense_view(first.input_grad_at), first.input_size, pass.grad_input, pass.dtype);
    __syncthreads();
  }
}

template <class Compute, int kImages, bool kShared>
__global__ __launch_bounds__(kTileThreads,
                             1) void tile_kernel(const __grid_constant__ TilePass<Compute> pass) {
  unsigned char* const memory =
      kShared ? shared_memory() : pass.workspace + int64_t{blockIdx.x} * pass.tile_bytes;
  const auto tiles = static_cast<int32_t>(divide_up(pass.batch, kImages));
  for (auto i = static_cast<int32_t>(blockIdx.x); i < tiles; i += static_cast<int32_t>(gridDim.x)) {
    const int64_t left = pass.batch - int64_t{i} * kImages;
    const Tile<Compute, kImages> tile{memory, i, left < kImages ? static_cast<int32_t>(left) : kImages};
    load_images(pass, tile);
    __syncthreads();
    for (int32_t stage = 0; stage < pass.stage_count; ++stage) {
      if (pass.forward) {
        stage_forward(pass.stages[stage], tile);
      } else {
        load_saved(pass.stages[stage], tile);
        __syncthreads();
      }
    }
    if (pass.output != nullptr) {
      const TileStage<Compute>& last = pass.stages[pass.stage_count - 1];
      store_rows(tile, last.output, last.output_size, pass.output, pass.dtype);
    }
    if (pass.backward) backward(pass, tile);
    __syncthreads();
  }
}

}  // namespace lenet_ext::cuda
