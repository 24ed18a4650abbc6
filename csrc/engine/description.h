// A network as Python describes it (lenet_ext/engine/network.py) and the operators take it: a text, which
// torch hands over in one piece where a list of numbers would be taken apart. The first line names who errors
// are about. Then there is one for each layer: its kind, the values that it reads, its parameters, its
// integers, its real numbers and, for errors, what the user calls it. The last line has the values that the
// network returns. Value 0 is the input, value i the result of layer i - 1. All sizes and dimensions are those
// of one image.
//
//   FusedNet
//   conv2d 0 | 0 1 | 1 1 0 0 0 0 1 1 1 | | conv1
//   leaky_relu 1 | | | 0.01 | act1
//   max_pool2d 2 | | 2 2 2 2 0 0 1 1 0 | | pool1
//   flatten 3 | | | |
//   linear 4 | 2 3 | | | fc
//   return 5
//
// For training two lines stand before the last: `loss cross_entropy` and `optimizer SGD`. Behind a loss may
// stand its reduction, mean or sum, and the options of loss.h: `loss cross_entropy mean -100 0.1`.
// Behind the optimizer stands the norm that the gradients are clipped to, if they are.
#pragma once

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "activation.h"
#include "engine/loss.h"
#include "engine/optimizer.h"
#include "shapes.h"

namespace lenet_ext {

using SizeList = std::vector<int64_t>;

enum class LayerKind {
  kNone,
  kConv2d,
  kConvTranspose2d,
  kLinear,
  kMaxPool2d,
  kAvgPool2d,
  kAdaptiveAvgPool2d,
  kAdaptiveMaxPool2d,
  kBatchNorm,
  kGroupNorm,
  kLayerNorm,
  kDropout,
  kActivation,
  kPRelu,
  kShift,
  kGain,
  kSoftmax,
  kLogSoftmax,
  kPermute,
  kPad,
  kSlice,
  kAdd,
  kMul,
  kConcat,
  kFlatten,
  kReshape,
};
// The part of a layer in the stages that layers are grouped into (grouping.h); kAlias: memory does not change.
enum class LayerRole { kAlias, kCore, kPool, kActivation };

// A layer of the description, of which nothing but the counts is checked yet.
struct Node {
  LayerKind kind;
  LayerRole role;
  Activation activation = Activation::kNone;
  SizeList values, parameters, numbers;
  std::vector<double> reals;
  std::string label;
};

inline ActivationCall activation_of(const Node& node) {
  ActivationCall call{.kind = node.activation};
  std::ranges::copy(node.reals, call.options);
  return call;
}

struct Description {
  std::string name;
  std::vector<Node> nodes;
  SizeList outputs;
  std::optional<Loss> loss;
  std::optional<Optimizer> optimizer;
  std::optional<double> max_grad_norm;
};

// What lines of each kind have, apart from activations.
inline constexpr size_t kAny = 64;  // as many as there are
struct CountRange {
  size_t least, most;
  bool holds(size_t count) const { return count >= least && (count <= most || most == kAny); }
};
struct LayerKindInfo {
  const char* name;
  LayerKind kind;
  LayerRole role = LayerRole::kCore;
  CountRange parameters{0, 0}, numbers{0, 0};
  size_t reals = 0;
  CountRange values{1, 1};
};
inline constexpr LayerKindInfo kLayerKinds[] = {
    {"conv2d", LayerKind::kConv2d, LayerRole::kCore, {1, 2}, {9, 9}},
    {"conv_transpose2d", LayerKind::kConvTranspose2d, LayerRole::kCore, {1, 2}, {9, 9}},
    {"linear", LayerKind::kLinear, LayerRole::kCore, {1, 2}},
    {"max_pool2d", LayerKind::kMaxPool2d, LayerRole::kPool, {0, 0}, {9, 9}},
    {"avg_pool2d", LayerKind::kAvgPool2d, LayerRole::kCore, {0, 0}, {9, 9}},
    {"adaptive_avg_pool2d", LayerKind::kAdaptiveAvgPool2d, LayerRole::kCore, {0, 0}, {2, 2}},
    {"adaptive_max_pool2d", LayerKind::kAdaptiveMaxPool2d, LayerRole::kCore, {0, 0}, {2, 2}},
    {"batch_norm", LayerKind::kBatchNorm, LayerRole::kCore, {0, 4}, {3, 3}, 2},
    {"group_norm", LayerKind::kGroupNorm, LayerRole::kCore, {0, 2}, {1, 1}, 1},
    {"layer_norm", LayerKind::kLayerNorm, LayerRole::kCore, {0, 2}, {1, 1}, 1},
    {"dropout", LayerKind::kDropout, LayerRole::kCore, {0, 0}, {1, 1}, 1},
    {"prelu", LayerKind::kPRelu, LayerRole::kCore, {1, 1}},
    {"shift", LayerKind::kShift, LayerRole::kCore, {1, 1}, {0, 0}, 1},
    {"gain", LayerKind::kGain, LayerRole::kCore, {1, 1}},
    {"softmax", LayerKind::kSoftmax, LayerRole::kCore, {0, 0}, {1, 1}},
    {"log_softmax", LayerKind::kLogSoftmax, LayerRole::kCore, {0, 0}, {1, 1}},
    {"permute", LayerKind::kPermute, LayerRole::kCore, {0, 0}, {1, kAny}},
    {"pad", LayerKind::kPad, LayerRole::kCore, {0, 0}, {2, kAny}, 1},
    {"slice", LayerKind::kSlice, LayerRole::kCore, {0, 0}, {4, 4}},
    {"add", LayerKind::kAdd, LayerRole::kCore, {0, 0}, {0, 0}, 1, {2, 2}},
    {"mul", LayerKind::kMul, LayerRole::kCore, {0, 0}, {0, 0}, 0, {2, 2}},
    {"concat", LayerKind::kConcat, LayerRole::kCore, {0, 0}, {1, 1}, 0, {1, kAny}},
    {"flatten", LayerKind::kFlatten, LayerRole::kAlias},
    {"reshape", LayerKind::kReshape, LayerRole::kAlias, {0, 0}, {0, kAny}},
};

// Takes a description apart; every error names its line.
class DescriptionReader {
 public:
  explicit DescriptionReader(std::string_view text) : text_(text) {
    d_.name = next_line();
    if (d_.name.empty() || d_.name.find(' ') != std::string::npos) fail("program: the first line is no name");
  }

  Description read() {
    while (d_.outputs.empty()) {
      if (text_.empty()) fail(d_.name, ": program ends without a line \"return\"");
      read_line(next_line());
    }
    if (!text_.empty()) refuse("is behind \"return\"", next_line());
    return std::move(d_);
  }

 private:
  std::string_view next_line() {
    const std::string_view line = text_.substr(0, text_.find('\n'));
    text_.remove_prefix(std::min(line.size() + 1, text_.size()));
    return line;
  }

  [[noreturn]] void refuse(const char* reason, std::string_view line) const {
    constexpr size_t kShown = 80;
    fail(d_.name, ": program line \"", line.substr(0, kShown), "\" ", reason);
  }

  void read_line(std::string_view line) {
    const std::string_view word = line.substr(0, line.find(' '));
    const std::string_view rest = line.substr(std::min(word.size() + 1, line.size()));
    if (word == "return") {
      d_.outputs = numbers<int64_t>(rest, line);
      if (d_.outputs.empty()) refuse("returns nothing", line);
      check_values(d_.outputs, line);
    } else if (word == "loss") {
      read_loss(rest, line);
    } else if (word == "optimizer") {
      const std::string_view name = rest.substr(0, rest.find(' '));
      d_.optimizer = static_cast<Optimizer>(index_of(name, kOptimizers, "names no optimizer", line));
      if (name != rest) d_.max_grad_norm = real(rest.substr(name.size() + 1), line);
    } else {
      read_node(word, rest, line);
    }
  }

  void read_loss(std::string_view rest, std::string_view line) {
    const auto next_word = [&] {
      const std::string_view word = rest.substr(0, rest.find(' '));
      rest.remove_prefix(std::min(word.size() + 1, rest.size()));
      return word;
    };
    const size_t kind = index_of(next_word(), kLosses, "names no loss", line);
    d_.loss = Loss::of(static_cast<LossKind>(kind));
    if (rest.empty()) return;
    const std::string_view reduction = next_word();
    if (reduction != "mean" && reduction != "sum") refuse("has no reduction", line);
    d_.loss->mean = reduction == "mean";
    for (size_t i = 0; i < kLosses[kind].options.size(); ++i) {
      const std::string_view word = next_word();
      const char* const end = word.data() + word.size();
      const auto [next, error] = std::from_chars(word.data(), end, d_.loss->options[i]);
      if (error != std::errc{} || next != end) refuse("has something that is no number", line);
    }
    if (!rest.empty()) refuse("has a wrong number of numbers", line);
  }

  void read_node(std::string_view word, std::string_view rest, std::string_view line) {
    Node node{};
    LayerKindInfo kind{nullptr, LayerKind::kActivation, LayerRole::kActivation};
    const auto known =
        std::ranges::find(kLayerKinds, word, [](const LayerKindInfo& k) { return std::string_view(k.name); });
    if (known != std::end(kLayerKinds)) {
      kind = *known;
    } else {
      const size_t index = index_of(word, kActivations, "has an unknown kind", line);
      node.activation = static_cast<Activation>(index);
      kind.reals = static_cast<size_t>(kActivations[index].options);
    }
    node.kind = kind.kind, node.role = kind.role;
    const auto next_part = [&] {
      const size_t end = rest.find('|');
      if (end == std::string_view::npos) refuse("has too few parts", line);
      const std::string_view part = rest.substr(0, end);
      rest.remove_prefix(end + 1);
      return part;
    };
    for (SizeList* list : {&node.values, &node.parameters, &node.numbers}) {
      *list = numbers<int64_t>(next_part(), line);
    }
    node.reals = numbers<double>(next_part(), line);
    node.label = rest.substr(std::min(rest.find_first_not_of(' '), rest.size()));
    if (!kind.values.holds(node.values.size())) refuse("reads a wrong number of values", line);
    if (!kind.parameters.holds(node.parameters.size())) refuse("has a wrong number of parameters", line);
    if (!kind.numbers.holds(node.numbers.size()) || node.reals.size() != kind.reals) {
      refuse("has a wrong number of numbers", line);
    }
    check_values(node.values, line);
    d_.nodes.push_back(std::move(node));
  }

  void check_values(const SizeList& values, std::string_view line) const {
    for (int64_t value : values) {
      if (value < 0 || value > static_cast<int64_t>(d_.nodes.size())) {
        refuse("reads a value that is not there", line);
      }
    }
  }

  template <class Number>
  std::vector<Number> numbers(std::string_view part, std::string_view line) const {
    std::vector<Number> list;
    const char *at = part.data(), *const end = at + part.size();
    while (true) {
      while (at != end && *at == ' ') ++at;
      if (at == end) return list;
      const auto [next, error] = std::from_chars(at, end, list.emplace_back());
      if (error != std::errc{} || (next != end && *next != ' '))
        refuse("has something that is no number", line);
      at = next;
    }
  }

  double real(std::string_view part, std::string_view line) const {
    double value;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc{} || end != part.data() + part.size())
      refuse("has something that is no number", line);
    return value;
  }

  static std::string_view name_of(const char* name) { return name; }
  template <class Info>
  static std::string_view name_of(const Info& info) {
    return info.name;
  }
  template <class List>
  size_t index_of(std::string_view name, const List& list, const char* reason, std::string_view line) const {
    for (size_t i = 0; i < std::size(list); ++i) {
      if (name_of(list[i]) == name) return i;
    }
    refuse(reason, line);
  }

  std::string_view text_;
  Description d_;
};

}  // namespace lenet_ext
