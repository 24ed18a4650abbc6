// The activations and their gradients: one pass over memory, bound by bandwidth.
#include "cuda/common/activation.cuh"
#include "cuda/common/launch.cuh"
#include "cuda/common/number.cuh"
#include "cuda/kernel_table.h"

namespace lenet_ext::cuda {
namespace {

constexpr int kVectorBytes = 16;  // the widest load there is
template <class Stored>
constexpr int kVectorSize = kVectorBytes / sizeof(Stored);

template <class Trait>
struct Value {
  Trait trait;

  template <class Stored>
  __device__ Stored operator()(Stored input) const {
    return narrow<Stored>(trait.value(widen(input)));
  }
};

template <class Trait>
struct Gradient {
  Trait trait;

  template <class Stored>
  __device__ Stored operator()(Stored grad_output, Stored saved) const {
    return narrow<Stored>(trait.gradient(widen(grad_output), widen(saved)));
  }
};

// result[i] = function(operands[i]...): thread i takes vector i of the `vectors` first, and those beyond them
// single elements of the rest. The result may be an operand.
template <class Function, class Stored, class... Operands>
__global__ __launch_bounds__(kElementThreads) void map(Function function, int64_t vectors, int64_t count,
                                                       Stored* result, const Operands*... operands) {
  using StoredVector = Vector<Stored, kVectorSize<Stored>>;
  const int64_t thread = element_index();
  if (thread < vectors) {
    const auto apply = [&](auto... loaded) {
      StoredVector results;
#pragma unroll
      for (int i = 0; i < kVectorSize<Stored>; ++i) results.values[i] = function(loaded.values[i]...);
      reinterpret_cast<StoredVector*>(result)[thread] = results;
    };
    apply(reinterpret_cast<const StoredVector*>(operands)[thread]...);
  } else {
    const int64_t i = thread - vectors + vectors * kVectorSize<Stored>;
    if (i < count) result[i] = function(operands[i]...);
  }
}

bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

template <class Function, class Stored, class... Operands>
void launch_map(const char* op, const Function& function, int64_t count, Stored* result,
                const Operands*... operands) {
  // A slice of a tensor may begin anywhere.
  const int64_t vectors = aligned(result) && (aligned(operands) && ...) ? count / kVectorSize<Stored> : 0;
  launch_elements(op, count - vectors * (kVectorSize<Stored> - 1), &map<Function, Stored, Operands...>,
                  function, vectors, count, result, operands...);
}

template <class Stored>
void activate(const ActivationCall& call, int64_t count, const void* input, void* output) {
  with_activation(call, [&](auto trait) {
    launch_map("activation", Value<decltype(trait)>{trait}, count, static_cast<Stored*>(output),
               static_cast<const Stored*>(input));
  });
}

template <class Stored>
void activation_grad(const ActivationCall& call, int64_t count, const void* grad_output, const void* saved,
                     void* grad_input) {
  with_activation(call, [&](auto trait) {
    launch_map("activation", Gradient<decltype(trait)>{trait}, count, static_cast<Stored*>(grad_input),
               static_cast<const Stored*>(grad_output), static_cast<const Stored*>(saved));
  });
}

const Entry entry([]<class Stored>(std::type_identity<Stored>, TypedKernels& typed, Kernels&) {
  typed.activation = {.forward = &activate<Stored>, .input_grad = &activation_grad<Stored>};
});

}  // namespace
}  // namespace lenet_ext::cuda
