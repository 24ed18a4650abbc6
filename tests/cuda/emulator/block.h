// The threads of one block. Each runs on a fiber until it ends or waits for others; then the next one has its
// turn. CUDA_EMULATOR_SEED in the environment, if not 0, shuffles the turns, so that a kernel which relies on
// an order that CUDA does not promise gives other results.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

namespace cuda_emulator {

inline constexpr int kWarpSize = 32;

enum class Waiting { kForNothing, kForWarp, kForBlock };

class Fiber;

class Block {
 public:
  // thread: what each of the `threads` threads does; threadIdx is set when it runs.
  Block(int threads, std::function<void()> thread);
  ~Block();

  // Ends the process with a message where threads wait for one that has ended.
  void run();

 private:
  friend void wait(Waiting);
  friend uint64_t exchange_bits(unsigned, uint64_t, int);

  struct Thread {
    Fiber* fiber = nullptr;
    bool ended = false;
    Waiting waiting = Waiting::kForNothing;
    uint64_t offered = 0;  // to the other threads of the warp
  };

  void resume(int thread);
  // Whether any went on.
  bool release(int first, int last, Waiting waiting);

  std::function<void()> body_;
  std::vector<Thread> threads_;
  std::vector<int> order_;
  std::mt19937 random_;
  bool shuffled_;
};

// The memory that a launch gives to each block: filled with what makes NaN of every type, for kernels that
// read what they did not write.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes);
  ~SharedMemory();
};
unsigned char* shared_memory();

int number_from_environment(const char* name, int otherwise);

// The running thread goes on when all others of its warp or block wait likewise.
void wait(Waiting waiting);

uint64_t exchange_bits(unsigned mask, uint64_t bits, int source_lane);

// The value that `source_lane` of this warp offers.
template <class T>
T exchange(unsigned mask, T value, int source_lane) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange_bits(mask, bits, source_lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace cuda_emulator
