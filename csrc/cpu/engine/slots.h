// Shares the memory of a tile among values that do not live at the same time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace lenet_ext::cpu {

class Slots {
 public:
  // For `size` elements of each image, from phase `birth` to phase `death`, both included. Calls come in the
  // order of births; the slot's number.
  int add(int64_t size, int birth, int death) {
    Slot* best = nullptr;
    for (Slot& slot : slots_) {
      // The one that needs to grow least.
      if (slot.death < birth && (best == nullptr || distance(slot, size) < distance(*best, size)))
        best = &slot;
    }
    if (best == nullptr) best = &slots_.emplace_back();
    best->size = std::max(best->size, size), best->death = death;
    return static_cast<int>(best - slots_.data());
  }

  // Where a slot begins, and the size of all: elements of each image.
  int64_t begin(int slot) const {
    int64_t at = 0;
    for (int i = 0; i < slot; ++i) at += slots_[i].size;
    return at;
  }
  int64_t size() const { return begin(static_cast<int>(slots_.size())); }

 private:
  struct Slot {
    int64_t size = 0;
    int death = -1;
  };
  static int64_t distance(const Slot& slot, int64_t size) {
    return slot.size >= size ? slot.size - size : 2 * (size - slot.size);
  }

  std::vector<Slot> slots_;
};

}  // namespace lenet_ext::cpu
