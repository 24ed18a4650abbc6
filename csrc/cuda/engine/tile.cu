#include "cuda/engine/launch.h"
#include "cuda/engine/plan.h"
#include "cuda/engine/tile.cuh"

namespace lenet_ext::cuda {
namespace {

struct Device {
  int64_t multiprocessors, shared_bytes;  // shared_bytes: the most that a block may have

  explicit Device(const char* op) {
    int device, values[2];
    const cudaDeviceAttr wanted[] = {cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin};
    check_cuda(op, "name the device", cudaGetDevice(&device));
    for (int i = 0; i < 2; ++i) {
      check_cuda(op, "describe the device", cudaDeviceGetAttribute(&values[i], wanted[i], device));
    }
    multiprocessors = values[0], shared_bytes = values[1];
  }
};

template <class Compute, int kImages, bool kShared>
void choose(const char* op, const Device& device, TilePass<Compute>& pass, TileLaunch<Compute>& launch) {
  constexpr auto* kKernel = &tile_kernel<Compute, kImages, kShared>;
  launch.kernel = kKernel;
  launch.shared_bytes = kShared ? pass.tile_bytes : 0;
  int64_t blocks_of_each = 2;
  if (kShared) {
    check_cuda(op, "give a block its shared memory",
               cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(device.shared_bytes)));
    int most;
    check_cuda(op, "place the kernel",
               cudaOccupancyMaxActiveBlocksPerMultiprocessor(&most, kKernel, kTileThreads,
                                                             static_cast<size_t>(launch.shared_bytes)));
    blocks_of_each = std::max(1, most);
  }
  launch.blocks = std::min(divide_up(pass.batch, kImages), device.multiprocessors * blocks_of_each);
  launch.workspace_bytes = kShared ? 0 : launch.blocks * pass.tile_bytes;
}

}  // namespace

template <class Compute>
TileLaunch<Compute> plan_tile(const Network& net, int64_t batch, const TilePurpose& purpose,
                              TilePass<Compute>& pass) {
  const char* const op = net.name.c_str();
  // A vector of 16 bytes.
  constexpr int kMostImages = std::is_same_v<Compute, float> ? 4 : 1;
  set_stages(net, batch, pass);
  const Device device(op);
  if (pass.batch > std::numeric_limits<int32_t>::max())
    fail(op, ": the batch is too large for CUDA: ", pass.batch);
  TileLaunch<Compute> launch;
  const auto fits = [&](int images) {
    pass.tile_bytes = lay_out(pass, purpose, images);
    return pass.tile_bytes <= device.shared_bytes;
  };
  // A multiprocessor that has no tile costs more than a weight that is loaded for one image alone.
  if (pass.batch >= kMostImages * device.multiprocessors && fits(kMostImages)) {
    choose<Compute, kMostImages, true>(op, device, pass, launch);
  } else if (fits(1)) {
    choose<Compute, 1, true>(op, device, pass, launch);
  } else {
    pass.tile_bytes = lay_out(pass, purpose, kMostImages);
    choose<Compute, kMostImages, false>(op, device, pass, launch);
  }
  return launch;
}

template <class Compute>
void launch_tile(const char* op, const TileLaunch<Compute>& plan, const TilePass<Compute>& pass) {
  launch_with_shared_memory(op, plan.blocks, kTileThreads, plan.shared_bytes, plan.kernel, pass);
}

// For the types that dtypes are computed in.
template TileLaunch<float> plan_tile(const Network&, int64_t, const TilePurpose&, TilePass<float>&);
template TileLaunch<double> plan_tile(const Network&, int64_t, const TilePurpose&, TilePass<double>&);
template void launch_tile(const char*, const TileLaunch<float>&, const TilePass<float>&);
template void launch_tile(const char*, const TileLaunch<double>&, const TilePass<double>&);

}  // namespace lenet_ext::cuda
