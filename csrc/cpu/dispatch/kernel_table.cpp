// The kernels of one instruction set for the dtypes of one compute type. setup.py compiles this file for
// each, with the flags of the set, and defines
//
//   LENET_EXT_SIMD_HEADER   the set's wrappers, for example "cpu/simd/avx2.h"
//   LENET_EXT_SIMD          their template, for example Avx2
//   LENET_EXT_COMPUTE       float or double
#include "cpu/dispatch/kernel_table.h"

#include "cpu/activation.h"
#include "cpu/conv2d/conv2d.h"
#include "cpu/dropout/mask.h"
#include "cpu/engine/frozen.h"
#include "cpu/engine/passes.h"
#include "cpu/engine/sample_gradients.h"
#include "cpu/linear/stacked.h"
#include "cpu/max_pool2d/grad.h"
#include "cpu/max_pool2d/max_pool2d.h"
#include LENET_EXT_SIMD_HEADER

namespace lenet_ext::cpu {
namespace {

// A function with `void*` for each pointer that it takes to stored values.
template <class Argument>
struct Untyped {
  using Type = Argument;
};
template <class T>
struct Untyped<T*> {
  using Type = void*;
};
template <class T>
struct Untyped<const T*> {
  using Type = const void*;
};

template <auto kFunction>
struct Erased;
template <class... Arguments, void (*kFunction)(Arguments...)>
struct Erased<kFunction> {
  static void call(typename Untyped<Arguments>::Type... arguments) {
    kFunction(static_cast<Arguments>(arguments)...);
  }
};
template <auto kFunction>
constexpr auto* erased = &Erased<kFunction>::call;

template <class S, class Stored>
constexpr TypedKernels kTypedKernels = {
    .conv2d = {.forward = erased<&conv2d<S, Stored>>,
               .input_grad = erased<&conv2d_input_grad<S, Stored>>,
               .weight_grad = erased<&conv2d_weight_grad<S, Stored>>},
    .max_pool2d = {.forward = erased<&max_pool2d<S, Stored>>,
                   .input_grad = erased<&max_pool2d_input_grad<S, Stored>>},
    .linear = {.forward = erased<&stacked_linear<S, Stored>>,
               .input_grad = erased<&stacked_linear_input_grad<S, Stored>>,
               .weight_grad = erased<&stacked_linear_weight_grad<S, Stored>>},
    .activation = {.forward = erased<&activate<S, Stored>>,
                   .input_grad = erased<&activation_grad<S, Stored>>},
    .dropout_mask = erased<&dropout_mask<S, Stored>>,
    .network = {.forward = &network_forward<S, Stored>,
                .backward = &network_backward<S, Stored>,
                .train = &network_train<S, Stored>,
                .sample_gradients = &network_sample_gradients<S, Stored>,
                .clipped_sums = &network_clipped_sums<S, Stored>,
                .noisy_update = &noisy_update<S, Stored>,
                .freeze = &freeze_network<S, Stored>},
};

}  // namespace

template <>
void enter_kernels<simd::LENET_EXT_SIMD, LENET_EXT_COMPUTE>(ByDType<const TypedKernels*>& kernels) {
  using S = simd::LENET_EXT_SIMD<LENET_EXT_COMPUTE>;
  static constexpr auto kCompiled = by_dtype([]<class Stored>() -> const TypedKernels* {
    if constexpr (std::is_same_v<ComputeType<Stored>, LENET_EXT_COMPUTE>) {
      return &kTypedKernels<S, Stored>;
    } else {
      return nullptr;
    }
  });
  for (int i = 0; i < StoredTypes::kCount; ++i) {
    if (kCompiled.values[i] != nullptr) kernels.values[i] = kCompiled.values[i];
  }
}

}  // namespace lenet_ext::cpu
