// Where small blocks of a thread's working memory lie: one after another in an aligned MiB.
//
// AMD's Zen processors find a line of the first-level cache by a hash of its virtual address: bits 12 to 19,
// each xor a higher one (Lipp et al., "Take A Way", 2020). Two lines at the same place of pages with equal
// hashes drive each other out, however empty the cache is. Among blocks from all over the heap this happens by
// chance, in one process and not in the next; within an aligned MiB all pages have different hashes. And on any
// processor, blocks without gaps fill the sets of a cache evenly.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <new>

namespace lenet_ext::cpu {

class ScratchArena {
 public:
  // Null if there is no room, and for blocks that are larger than a first-level cache.
  std::byte* take(size_t bytes) {
    if (bytes > kMostBytes || count_ == pieces_.size()) return nullptr;
    if (memory_ == nullptr) memory_ = static_cast<std::byte*>(::operator new(kSize, kAlignment));
    bytes = (bytes + kLine - 1) / kLine * kLine;
    // At the end, since blocks are mostly given back in reverse order; else in the first gap.
    size_t at = count_, begin = end_before(at);
    if (begin + bytes > kSize) {
      for (at = 0; at < count_ && pieces_[at].begin - end_before(at) < bytes; ++at) {
      }
      if (at == count_) return nullptr;
      begin = end_before(at);
      std::copy_backward(pieces_.begin() + at, pieces_.begin() + count_, pieces_.begin() + count_ + 1);
    }
    pieces_[at] = {begin, begin + bytes};
    ++count_;
    return memory_ + begin;
  }
  // Whether the block is one of its own, which is free then.
  bool give_back(const void* block) {
    const auto* const data = static_cast<const std::byte*>(block);
    if (memory_ == nullptr || data < memory_ || data >= memory_ + kSize) return false;
    size_t at = count_ - 1;
    while (memory_ + pieces_[at].begin != data) --at;
    std::copy(pieces_.begin() + at + 1, pieces_.begin() + count_, pieces_.begin() + at);
    --count_;
    return true;
  }
  ScratchArena() = default;
  ScratchArena(const ScratchArena&) = delete;
  ScratchArena& operator=(const ScratchArena&) = delete;
  ~ScratchArena() { ::operator delete(memory_, kAlignment); }

 private:
  struct Piece {
    size_t begin, end;
  };
  size_t end_before(size_t piece) const { return piece == 0 ? 0 : pieces_[piece - 1].end; }

  static constexpr size_t kSize = 1024 * 1024, kMostBytes = 64 * 1024, kLine = 64;
  static constexpr std::align_val_t kAlignment{kSize};
  std::byte* memory_ = nullptr;
  std::array<Piece, 256> pieces_;  // in use, in order
  size_t count_ = 0;
};

}  // namespace lenet_ext::cpu
