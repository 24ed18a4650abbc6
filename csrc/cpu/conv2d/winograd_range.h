#pragma once

namespace lenet_ext::cpu {

// Sums of squares between these have neither overflowed nor lost much of what they sum.
inline constexpr double kLeastSquare = 1e-30, kLargestSquare = 1e30;

}  // namespace lenet_ext::cpu
