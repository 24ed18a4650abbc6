// The loss of a batch, of which each call sees the images of a tile.
#pragma once

#include <atomic>

#include "cpu/engine/loss.h"
#include "cpu/engine/tensors.h"

namespace lenet_ext::cpu {

// A tensor in the compute type: itself, or a widened copy; null if it is.
template <class S, class Stored>
class WideTensor {
  using T = typename S::Scalar;
  static constexpr bool kSame = std::is_same_v<T, Stored>;

 public:
  WideTensor(const void* tensor, int64_t count) : memory_(kSame || tensor == nullptr ? 0 : count) {
    const auto* const stored = static_cast<const Stored*>(tensor);
    if constexpr (kSame) {
      values_ = stored;
    } else if (stored != nullptr) {
      copy_row<S>(stored, memory_.data(), count);
      values_ = memory_.data();
    }
  }
  const T* values() const { return values_; }

 private:
  Scratch<T> memory_;
  const T* values_ = nullptr;
};

template <class S, class Stored>
class BatchLoss {
  using T = typename S::Scalar;

 public:
  BatchLoss(const Network& network, const TrainPass& pass)
      : loss_(*network.loss),
        pass_(pass),
        size_(network.output_size()),
        classes_(loss_.is_of_classes() ? network.output_sizes()[0] : 1),
        positions_(size_ / std::max<int64_t>(classes_, 1)),
        weight_(pass.loss.weight, elements(pass.loss.weight_step)),
        pos_weight_(pass.loss.pos_weight, elements(pass.loss.pos_weight_step)),
        divisor_(loss_.mean ? terms() : 1),
        scale_(static_cast<T>(1 / divisor_)) {}

  // The sum of the losses of images [first, first + count) of the batch over what the mean is taken; grads
  // becomes the gradient of the batch's loss.
  double of_tile(int64_t first, int64_t count, const T* output, T* grads) {
    double sum = 0;
    for (int64_t i = first; i < first + count; ++i, output += size_, grads += size_) {
      sum += of_image(i, output, grads);
    }
    return sum / divisor_;
  }

  // Whether there was an output of which there is no such loss. The step is not to be taken.
  bool is_refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  int64_t elements(int64_t step) const {
    if (loss_.is_of_classes()) return classes_;
    return step == 0 ? size_ : pass_.images.count * size_;
  }
  template <class Target>
  const Target* targets(int64_t image, int64_t each) const {
    return static_cast<const Target*>(pass_.targets) + source_image(pass_.images, image) * each;
  }
  bool counts(int64_t target) const { return target != loss_.ignored(); }
  T weight_of(int64_t target) const { return weight_.values() == nullptr ? T(1) : weight_.values()[target]; }

  // What the mean is taken over: the weights of all targets that count.
  double terms() const {
    if (!loss_.is_of_classes() || pass_.loss.soft)
      return static_cast<double>(pass_.images.count * positions_);
    double sum = 0;
    for (int64_t i = 0; i < pass_.images.count; ++i) {
      const auto* const target = targets<int64_t>(i, positions_);
      for (int64_t p = 0; p < positions_; ++p) {
        if (counts(target[p])) sum += static_cast<double>(weight_of(target[p]));
      }
    }
    return sum;
  }

  double of_image(int64_t i, const T* output, T* grads) {
    if (size_ == 0) return 0;
    switch (loss_.kind) {
      case LossKind::kCrossEntropy:
        return cross_entropy_of_image(i, output, grads);
      case LossKind::kNegativeLogLikelihood:
        return nll_of_image(i, output, grads);
      case LossKind::kSquaredError:
        return of_elements(SquaredError{}, i, output, grads);
      case LossKind::kL1:
        return of_elements(AbsoluteError{}, i, output, grads);
      case LossKind::kSmoothL1:
        if (loss_.width() == 0) return of_elements(AbsoluteError{}, i, output, grads);
        return of_elements(SmoothL1<T>{static_cast<T>(loss_.width())}, i, output, grads);
      case LossKind::kHuber:
        return of_elements(HuberError<T>{static_cast<T>(loss_.width())}, i, output, grads);
      case LossKind::kBinaryCrossEntropy:
        if (!std::all_of(output, output + size_, [](T p) { return p >= 0 && p <= 1; })) {
          refused_.store(true, std::memory_order_relaxed);
        }
        return of_elements(BinaryCrossEntropy{}, i, output, grads);
      case LossKind::kBinaryCrossEntropyWithLogits:
        return with_pos_weight(i, output, grads);
    }
    return 0;
  }

  double cross_entropy_of_image(int64_t image, const T* output, T* grads) const {
    if (positions_ > 1) return cross_entropy_of_positions(image, output, grads);
    if (!pass_.loss.soft) return cross_entropy_of_row(*targets<int64_t>(image, 1), output, grads);
    copy_row<S>(targets<Stored>(image, size_), grads, size_);
    return soft_cross_entropy_of_row(output, grads);
  }

  // Of an image, whose classes at one position lie `positions_` apart.
  double cross_entropy_of_positions(int64_t image, const T* output, T* grads) const {
    Scratch<T> output_rows(size_), grad_rows(size_);
    transpose<S>(output, positions_, output_rows.data(), classes_, classes_, positions_);
    if (pass_.loss.soft) {
      const Stored* const wanted = targets<Stored>(image, size_);
      transpose<S>(wanted, positions_, grad_rows.data(), classes_, classes_, positions_);
    }
    const int64_t* const target = pass_.loss.soft ? nullptr : targets<int64_t>(image, positions_);
    double sum = 0;
    for (int64_t p = 0; p < positions_; ++p) {
      const T* const x = output_rows.data() + p * classes_;
      T* const g = grad_rows.data() + p * classes_;
      sum += target == nullptr ? soft_cross_entropy_of_row(x, g) : cross_entropy_of_row(target[p], x, g);
    }
    transpose<S>(grad_rows.data(), classes_, grads, positions_, positions_, classes_);
    return sum;
  }

  double cross_entropy_of_row(int64_t target, const T* x, T* g) const {
    if (!counts(target)) {
      std::fill_n(g, classes_, T(0));
      return 0;
    }
    if (loss_.label_smoothing() == 0) {
      return cross_entropy(classes_, x, target, weight_of(target), scale_, g);
    }
    std::fill_n(g, classes_, T(0));
    g[target] = 1;
    return soft_cross_entropy_of_row(x, g);
  }

  // g: the probabilities that are wanted, then the gradient.
  double soft_cross_entropy_of_row(const T* x, T* g) const {
    const auto smoothing = static_cast<T>(loss_.label_smoothing());
    for (int64_t j = 0; j < classes_; ++j) {
      g[j] = weight_of(j) * (g[j] * (1 - smoothing) + smoothing / static_cast<T>(classes_));
    }
    return soft_cross_entropy(classes_, x, scale_, g);
  }

  double nll_of_image(int64_t image, const T* output, T* grads) const {
    const auto* const target = targets<int64_t>(image, positions_);
    std::fill_n(grads, size_, T(0));
    double sum = 0;
    for (int64_t p = 0; p < positions_; ++p) {
      if (!counts(target[p])) continue;
      const int64_t place = target[p] * positions_ + p;
      const T weight = weight_of(target[p]);
      sum -= static_cast<double>(weight * output[place]);
      grads[place] = -weight * scale_;
    }
    return sum;
  }

  template <class Term>
  double of_elements(const Term& term, int64_t image, const T* output, T* grads) const {
    copy_row<S>(targets<Stored>(image, size_), grads, size_);
    const T* const weight = weight_.values();
    if (weight == nullptr) {
      return element_loss(term, size_, output, [](int64_t) { return T(1); }, scale_, grads);
    }
    const T* const own = weight + image * pass_.loss.weight_step;
    return element_loss(term, size_, output, [=](int64_t i) { return own[i]; }, scale_, grads);
  }

  double with_pos_weight(int64_t image, const T* output, T* grads) const {
    const auto run = [&](const auto& pos_weight) {
      return of_elements(BinaryCrossEntropyWithLogits{pos_weight}, image, output, grads);
    };
    if (pos_weight_.values() == nullptr) return run([](int64_t) { return T(1); });
    const T* const own = pos_weight_.values() + image * pass_.loss.pos_weight_step;
    return run([=](int64_t i) { return own[i]; });
  }

  const Loss loss_;
  const TrainPass& pass_;
  const int64_t size_, classes_, positions_;  // of an image: elements; of these per position classes
  const WideTensor<S, Stored> weight_, pos_weight_;
  const double divisor_;
  const T scale_;
  std::atomic<bool> refused_ = false;
};

}  // namespace lenet_ext::cpu
