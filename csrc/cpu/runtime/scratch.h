#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include "cpu/runtime/scratch_arena.h"

namespace lenet_ext::cpu {

// AddressSanitizer sees what lies beyond a block only where each is an allocation of its own.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kOwnAllocations = true;
#else
constexpr bool kOwnAllocations = false;
#endif

// Memory for the Scratch of this thread: small blocks from an arena, and large ones that are kept for the next
// time, since the system would take them back at once and hand out fresh pages, each with a page fault.
class ScratchCache {
 public:
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };

  Block take(size_t bytes) {
    if (kOwnAllocations) return {::operator new(bytes, kAlignment), bytes};
    if (void* const data = arena_.take(bytes)) return {data, bytes};
    if (bytes < kLeast) bytes = kLeast;
    for (Block& block : blocks_) {
      if (block.bytes >= bytes && block.bytes <= 2 * bytes) return std::exchange(block, {});
    }
    return {::operator new(bytes, kAlignment), bytes};
  }
  void give_back(Block block) {
    if (arena_.give_back(block.data)) return;
    if (block.bytes <= kMost && !kOwnAllocations) {
      for (size_t i = 0; i < kBlocks && blocks_[next_].data != nullptr; ++i) next_ = (next_ + 1) % kBlocks;
      std::swap(block, blocks_[next_]);
      next_ = (next_ + 1) % kBlocks;
    }
    ::operator delete(block.data, kAlignment);
  }
  ~ScratchCache() {
    for (const Block& block : blocks_) ::operator delete(block.data, kAlignment);
  }

  static ScratchCache& of_this_thread() {
    thread_local ScratchCache cache;
    return cache;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  // Of one size up to kLeast: a small block that is needed comes from any other.
  static constexpr size_t kLeast = 4 * 1024, kMost = 8 * 1024 * 1024, kBlocks = 24;
  ScratchArena arena_;
  Block blocks_[kBlocks];
  size_t next_ = 0;
};

// Uninitialised working memory, aligned to a cache line.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : block_(ScratchCache::of_this_thread().take(sizeof(T) * static_cast<size_t>(count > 0 ? count : 1))) {}
  ~Scratch() { ScratchCache::of_this_thread().give_back(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() { return static_cast<T*>(block_.data); }
  const T* data() const { return static_cast<const T*>(block_.data); }
  T& operator[](int64_t i) { return data()[i]; }

 private:
  ScratchCache::Block block_;
};

}  // namespace lenet_ext::cpu
