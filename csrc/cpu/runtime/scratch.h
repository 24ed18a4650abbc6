#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>

#include "cpu/runtime/scratch_arena.h"

namespace lenet_ext::cpu {

// AddressSanitizer sees what lies beyond a block only where each is an allocation of its own.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kOwnAllocations = true;
#else
constexpr bool kOwnAllocations = false;
#endif

// Memory for the Scratch of this thread: small blocks from an arena, and large ones that are kept for the next
// time, since the system would take them back at once and hand out fresh pages, each with a page fault. Those
// that were used last are kept, up to a total.
class ScratchCache {
 public:
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };

  Block take(size_t bytes) {
    if (kOwnAllocations) return {::operator new(bytes, kAlignment), bytes};
    if (void* const data = arena_->take(bytes)) return {data, bytes};
    if (bytes < kLeast) bytes = kLeast;
    for (size_t i = count_; i-- > 0;) {
      if (blocks_[i].bytes >= bytes && blocks_[i].bytes <= 2 * bytes) return remove(i);
    }
    return {::operator new(bytes, kAlignment), bytes};
  }
  void give_back(Block block) {
    if (arena_->give_back(block.data)) return;
    if (kOwnAllocations || block.bytes > kMost) return ::operator delete(block.data, kAlignment);
    while (count_ == kBlocks || total_ + block.bytes > kMost) ::operator delete(remove(0).data, kAlignment);
    blocks_[count_++] = block;
    total_ += block.bytes;
  }
  ScratchCache() = default;
  ScratchCache(const ScratchCache&) = delete;
  ScratchCache& operator=(const ScratchCache&) = delete;
  ~ScratchCache() {
    while (count_ > 0) ::operator delete(remove(0).data, kAlignment);
  }

  static ScratchCache& of_this_thread() {
    thread_local ScratchCache cache;
    return cache;
  }

 private:
  Block remove(size_t i) {
    const Block block = blocks_[i];
    std::copy(blocks_ + i + 1, blocks_ + count_, blocks_ + i);
    --count_;
    total_ -= block.bytes;
    return block;
  }

  static constexpr std::align_val_t kAlignment{64};
  // Of one size up to kLeast: a small block that is needed comes from any other.
  static constexpr size_t kLeast = 4 * 1024, kMost = 256 * 1024 * 1024, kBlocks = 48;
  friend class LastingScratch;
  ScratchArena own_;
  ScratchArena* arena_ = &own_;
  Block blocks_[kBlocks];  // from the one that was used longest ago
  size_t count_ = 0, total_ = 0;
};

// While it lives, the small blocks of this thread come from `arena` and go back to it. What is to outlive the
// thread, or to be freed by another, is made and destroyed so; no Scratch from before is given back meanwhile.
class LastingScratch {
 public:
  explicit LastingScratch(ScratchArena& arena)
      : cache_(ScratchCache::of_this_thread()), before_(cache_.arena_) {
    cache_.arena_ = &arena;
  }
  LastingScratch(const LastingScratch&) = delete;
  LastingScratch& operator=(const LastingScratch&) = delete;
  ~LastingScratch() { cache_.arena_ = before_; }

 private:
  ScratchCache& cache_;
  ScratchArena* const before_;
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
