// How a parameter lies along the values of an image that it is added to or multiplied with.
#pragma once

#include <string>
#include <vector>

#include "shapes.h"

namespace lenet_ext {

// The values of an image are (outer, size, inner); each has the element of its place along `size`.
struct Broadcast {
  int64_t outer = 1, size = 1, inner = 1;

  int64_t image() const { return outer * size * inner; }
};

// image, parameter: sizes. The parameter may have ones, or nothing, for dimensions before and behind those
// that it has elements for.
inline Broadcast broadcast(const std::string& op, Sizes image, Sizes parameter) {
  const Sizes given = parameter;
  while (parameter.size() > image.size() && parameter[0] == 1) parameter = parameter.subspan(1);
  const auto misfit = [&] {
    fail(op, ": a parameter of the sizes ", to_string(given), " does not fit images of ", to_string(image));
  };
  if (parameter.size() > image.size()) misfit();
  const size_t missing = image.size() - parameter.size();
  Broadcast b;
  for (size_t i = 0; i < image.size(); ++i) {
    const int64_t size = i < missing ? 1 : parameter[i - missing];
    if (size != 1 && size != image[i]) misfit();
    if (image[i] == 1) continue;
    if (size == 1) {
      (b.size == 1 ? b.outer : b.inner) *= image[i];
    } else {
      if (b.inner != 1) misfit();
      b.size *= size;
    }
  }
  return b;
}

}  // namespace lenet_ext
