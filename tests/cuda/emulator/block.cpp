#include "block.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <numeric>

#include "fiber.h"

namespace cuda_emulator {
namespace {

Block* running_block = nullptr;
const std::function<void()>* running_body = nullptr;
Fiber* running_fiber = nullptr;

// Fibers are kept: one runs the threads given to it one after the other.
std::vector<std::unique_ptr<Fiber>> all_fibers;
std::vector<Fiber*> free_fibers;
bool thread_ended;

void run_threads() {
  running_fiber->entered();
  for (;;) {
    (*running_body)();
    thread_ended = true;
    running_fiber->suspend();
  }
}

Fiber* take_fiber() {
  if (free_fibers.empty()) {
    all_fibers.push_back(std::make_unique<Fiber>(&run_threads));
    free_fibers.push_back(all_fibers.back().get());
  }
  Fiber* fiber = free_fibers.back();
  free_fibers.pop_back();
  return fiber;
}

unsigned seed() {
  return static_cast<unsigned>(number_from_environment("CUDA_EMULATOR_SEED", 0));
}

unsigned char* block_memory = nullptr;

}  // namespace

int number_from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : static_cast<int>(std::strtol(text, nullptr, 10));
}

SharedMemory::SharedMemory(size_t bytes) {
  constexpr std::align_val_t kAlignment{16};
  block_memory = bytes == 0 ? nullptr : static_cast<unsigned char*>(::operator new(bytes, kAlignment));
  std::fill_n(block_memory, bytes, static_cast<unsigned char>(0xff));
}

SharedMemory::~SharedMemory() {
  ::operator delete(block_memory, std::align_val_t{16});
  block_memory = nullptr;
}

unsigned char* shared_memory() {
  return block_memory;
}

Block::Block(int threads, std::function<void()> thread)
    : body_(std::move(thread)), threads_(threads), order_(threads), random_(seed()), shuffled_(seed() != 0) {
  std::iota(order_.begin(), order_.end(), 0);
  running_block = this;
  running_body = &body_;
}

Block::~Block() {
  running_block = nullptr;
}

void Block::resume(int thread) {
  Thread& t = threads_[thread];
  if (t.fiber == nullptr) t.fiber = take_fiber();
  threadIdx.x = static_cast<unsigned>(thread);
  running_fiber = t.fiber;
  thread_ended = false;
  t.fiber->resume();
  if (thread_ended) {
    t.ended = true;
    free_fibers.push_back(t.fiber);
    t.fiber = nullptr;
  }
}

bool Block::release(int first, int last, Waiting waiting) {
  for (int i = first; i < last; ++i) {
    if (threads_[i].ended || threads_[i].waiting != waiting) return false;
  }
  for (int i = first; i < last; ++i) threads_[i].waiting = Waiting::kForNothing;
  return true;
}

void Block::run() {
  const int count = static_cast<int>(threads_.size());
  std::fill(threads_.begin(), threads_.end(), Thread{});
  for (;;) {
    if (shuffled_) std::shuffle(order_.begin(), order_.end(), random_);
    for (int i : order_) {
      if (!threads_[i].ended && threads_[i].waiting == Waiting::kForNothing) resume(i);
    }
    if (std::all_of(threads_.begin(), threads_.end(), [](const Thread& t) { return t.ended; })) return;
    bool released = release(0, count, Waiting::kForBlock);
    for (int first = 0; first < count; first += kWarpSize) {
      released |= release(first, std::min(first + kWarpSize, count), Waiting::kForWarp);
    }
    if (!released) die("threads wait for one that has ended or waits elsewhere");
  }
}

void wait(Waiting waiting) {
  running_block->threads_[threadIdx.x].waiting = waiting;
  running_fiber->suspend();
}

uint64_t exchange_bits(unsigned mask, uint64_t bits, int source_lane) {
  if (mask != 0xffffffffu || blockDim.x % kWarpSize != 0) die("a shuffle needs the whole warp");
  const unsigned thread = threadIdx.x;
  const unsigned source = thread / kWarpSize * kWarpSize + static_cast<unsigned>(source_lane);
  running_block->threads_[thread].offered = bits;
  wait(Waiting::kForWarp);
  const uint64_t received = running_block->threads_[source].offered;
  // What is offered next must not come before all have read this.
  wait(Waiting::kForWarp);
  return received;
}

}  // namespace cuda_emulator
