#include "ops/fork.h"

#if defined(__unix__)
#include <pthread.h>
#endif

namespace lenet_ext {
namespace {

bool is_forked_child = false;

#if defined(__unix__)
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { is_forked_child = true; });
#endif

}  // namespace

bool in_forked_child() {
  return is_forked_child;
}

}  // namespace lenet_ext
