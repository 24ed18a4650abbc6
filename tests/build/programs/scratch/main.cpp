// Scratch memory, taken and given back in random order by two threads: no block may overlap another one, all
// begin at a cache line, and small ones lie within one aligned MiB of their thread as long as that has room.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "cpu/runtime/scratch.h"

namespace {

using Block = lenet_ext::cpu::Scratch<uint8_t>;
constexpr int64_t kSmall = 64 * 1024, kMebibyte = 1024 * 1024;

struct Held {
  std::unique_ptr<Block> block;
  int64_t size;
  uint8_t mark;

  uintptr_t begin() const { return reinterpret_cast<uintptr_t>(block->data()); }
};

class Check {
 public:
  explicit Check(unsigned seed) : random_(seed) {}

  // Takes and gives back at random, about `most` at a time, of up to `largest` bytes.
  void run(int steps, int64_t most, int64_t largest) {
    for (int step = 0; step < steps; ++step) {
      const auto count = static_cast<int64_t>(held_.size());
      below(2 * most) >= count ? take(below(largest + 1))
                               : give_back(below(3) == 0 ? below(count) : count - 1);
    }
    while (!held_.empty()) give_back(static_cast<int64_t>(held_.size()) - 1);
  }
  // Blocks that fit into a MiB together all lie in the same, whatever was taken before.
  void expect_neighbours() {
    for (int i = 0; i < 16; ++i) take(kSmall);
    for (const Held& held : held_) {
      expect(held.begin() / kMebibyte == held_[0].begin() / kMebibyte, "blocks of one thread lie apart");
    }
    // With a gap in its middle, the arena has room for what fits there.
    const uintptr_t gap = held_[7].begin();
    give_back(7);
    take(kSmall - 1000);
    expect(held_.back().begin() == gap, "a gap was not used");
    take(kSmall);
    expect(held_.back().begin() / kMebibyte != gap / kMebibyte, "more in a MiB than it holds");
    while (!held_.empty()) give_back(0);
    take(kSmall + 1);
    expect(held_[0].begin() / kMebibyte != gap / kMebibyte, "a large block lies among the small ones");
    give_back(0);
  }
  // Large blocks come back, those that were used last: of three of 100 MiB two.
  void expect_kept() {
    constexpr int64_t kLarge = 100 * kMebibyte;
    take(kLarge);
    const uintptr_t first = held_[0].begin();
    give_back(0);
    take(kLarge - kMebibyte);
    expect(held_[0].begin() == first, "a large block was not kept");
    take(kLarge);
    take(kLarge);
    const uintptr_t last[] = {held_[1].begin(), held_[2].begin()};
    while (!held_.empty()) give_back(0);
    take(kLarge);
    take(kLarge);
    expect(held_[0].begin() == last[1] && held_[1].begin() == last[0], "an older block was kept");
    while (!held_.empty()) give_back(0);
  }
  int failures() const { return failures_; }

 private:
  int64_t below(int64_t bound) { return std::uniform_int_distribution<int64_t>(0, bound - 1)(random_); }
  void expect(bool passed, const char* what) {
    if (!passed && ++failures_ < 10) std::fprintf(stderr, "%s\n", what);
  }
  void take(int64_t size) {
    Held held{std::make_unique<Block>(size), size, static_cast<uint8_t>(below(256))};
    expect(held.begin() % 64 == 0, "a block does not begin at a cache line");
    std::fill_n(held.block->data(), size, held.mark);
    held_.push_back(std::move(held));
  }
  void give_back(int64_t which) {
    const Held& held = held_[which];
    bool intact = true;
    for (int64_t i = 0; i < held.size; ++i) intact &= (*held.block)[i] == held.mark;
    expect(intact, "another block wrote into this one");
    held_.erase(held_.begin() + which);
  }

  std::mt19937 random_;
  std::vector<Held> held_;
  int failures_ = 0;
};

int failures_of(unsigned seed) {
  Check check(seed);
  check.expect_neighbours();
  check.run(20'000, 20, 2'000);        // as a stage does
  check.run(4'000, 60, kSmall);        // more than the arena holds
  check.run(20'000, 400, 100);         // more pieces than it knows
  check.run(300, 10, 40 * kMebibyte);  // more than what is kept
  check.expect_kept();
  check.expect_neighbours();
  return check.failures();
}

}  // namespace

int main() {
  int failures[2];
  std::thread other([&] { failures[1] = failures_of(2); });
  failures[0] = failures_of(1);
  other.join();
  std::printf("%d failed\n", failures[0] + failures[1]);
  return failures[0] + failures[1] == 0 ? 0 : 1;
}
