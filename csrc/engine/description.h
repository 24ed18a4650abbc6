// A network as Python describes it (lenet_ext/engine/network.py) and the operators take it: a text, which
// torch hands over in one piece where a list of numbers would be taken apart. The first line names who errors
// are about. Then there is one for each layer: its kind, the values that it reads, its parameters, its
// numbers and, for errors, what the user calls it. The last line has the values that the network returns.
// Value 0 is the input, value i the result of layer i - 1.
//
//   FusedNet
//   conv2d 0 | 0 1 | 1 1 0 0 0 0 1 1 1 | conv1
//   relu 1 | | | relu1
//   max_pool2d 2 | | 2 2 2 2 0 0 1 1 0 | pool1
//   flatten 3 | | |
//   linear 4 | 2 3 | | fc
//   return 5
//
// For training two lines stand before the last: `loss cross_entropy` and `optimizer SGD`, with the norm that the
// gradients are clipped to behind it, if they are.
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

enum class LayerKind { kConv2d, kLinear, kActivation, kMaxPool2d, kFlatten };
// The part of a layer in the stages that layers are grouped into (grouping.h); kNone: memory does not change.
enum class LayerRole { kNone, kCore, kPool, kActivation };

// A layer of the description, of which nothing but the counts is checked yet.
struct Node {
  LayerKind kind;
  LayerRole role;
  Activation activation = Activation::kNone;
  SizeList values, parameters, numbers;
  std::string label;
};

struct Description {
  std::string name;
  std::vector<Node> nodes;
  SizeList outputs;
  std::optional<Loss> loss;
  std::optional<Optimizer> optimizer;
  std::optional<double> max_grad_norm;
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
  struct Kind {
    const char* name;
    LayerKind kind;
    LayerRole role;
    size_t most_parameters, numbers;
  };
  static constexpr Kind kKinds[] = {
      {"conv2d", LayerKind::kConv2d, LayerRole::kCore, 2, 9},
      {"linear", LayerKind::kLinear, LayerRole::kCore, 2, 0},
      {"max_pool2d", LayerKind::kMaxPool2d, LayerRole::kPool, 0, 9},
      {"flatten", LayerKind::kFlatten, LayerRole::kNone, 0, 0},
  };

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
      d_.outputs = numbers(rest, line);
      if (d_.outputs.empty()) refuse("returns nothing", line);
      check_values(d_.outputs, line);
    } else if (word == "loss") {
      d_.loss = static_cast<Loss>(index_of(rest, kLosses, "names no loss", line));
    } else if (word == "optimizer") {
      const std::string_view name = rest.substr(0, rest.find(' '));
      d_.optimizer = static_cast<Optimizer>(index_of(name, kOptimizers, "names no optimizer", line));
      if (name != rest) d_.max_grad_norm = real(rest.substr(name.size() + 1), line);
    } else {
      read_node(word, rest, line);
    }
  }

  void read_node(std::string_view word, std::string_view rest, std::string_view line) {
    Node node{};
    Kind kind{nullptr, LayerKind::kActivation, LayerRole::kActivation, 0, 0};
    const auto known =
        std::ranges::find(kKinds, word, [](const Kind& k) { return std::string_view(k.name); });
    if (known != std::end(kKinds)) {
      kind = *known;
    } else {
      node.activation = static_cast<Activation>(index_of(word, kActivations, "has an unknown kind", line));
    }
    node.kind = kind.kind, node.role = kind.role;
    for (SizeList* list : {&node.values, &node.parameters, &node.numbers}) {
      const size_t end = rest.find('|');
      if (end == std::string_view::npos) refuse("has too few parts", line);
      *list = numbers(rest.substr(0, end), line);
      rest.remove_prefix(end + 1);
    }
    node.label = rest.substr(std::min(rest.find_first_not_of(' '), rest.size()));
    const size_t least_parameters = kind.most_parameters > 0;
    if (node.values.size() != 1) refuse("must read one value", line);
    if (node.parameters.size() < least_parameters || node.parameters.size() > kind.most_parameters) {
      refuse("has a wrong number of parameters", line);
    }
    if (node.numbers.size() != kind.numbers) refuse("has a wrong number of numbers", line);
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

  SizeList numbers(std::string_view part, std::string_view line) const {
    SizeList list;
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
