// The last few things that a thread made, to be used again.
#pragma once

#include <array>
#include <memory>

namespace lenet_ext {

template <class T>
class Recent {
 public:
  // The one that fits, else make() in the place of the oldest.
  template <class Fits, class Make>
  std::shared_ptr<T> find_or_make(const Fits& fits, const Make& make) {
    for (const auto& one : kept_) {
      if (one && fits(*one)) return one;
    }
    auto made = make();
    kept_[next_] = made;
    next_ = (next_ + 1) % kKept;
    return made;
  }

 private:
  static constexpr size_t kKept = 8;
  std::array<std::shared_ptr<T>, kKept> kept_;
  size_t next_ = 0;
};

}  // namespace lenet_ext
