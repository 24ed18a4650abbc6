// A stack of its own for each thread of a block, and the switch between stacks.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

#if defined(__x86_64__)
#else
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_emulator {

[[noreturn]] inline void die(const char* message) {
  std::fprintf(stderr, "CUDA emulator: %s\n", message);
  std::abort();
}

#if defined(__x86_64__)
// Saves the registers that a function must keep and goes on where the other stack stopped: some hundred times
// faster than swapcontext, which asks the kernel about signals.
extern "C" void cuda_emulator_switch(void** from, void* to);
asm(R"(
.text
.type cuda_emulator_switch, @function
.hidden cuda_emulator_switch
.globl cuda_emulator_switch
cuda_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
.size cuda_emulator_switch, .-cuda_emulator_switch
)");
#endif

// Runs `entry` on its own stack. resume() is called from outside, suspend() from within.
class Fiber {
 public:
  explicit Fiber(void (*entry)()) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    bottom_ = static_cast<char*>(mmap(nullptr, kStackSize, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (bottom_ == MAP_FAILED || mprotect(bottom_, page, PROT_NONE) != 0) die("no memory for a stack");
#if defined(__x86_64__)
    constexpr int kSavedRegisters = 6;
    auto** top = reinterpret_cast<void**>(bottom_ + kStackSize);
    // A function begins with its return address on the stack, 8 bytes below a multiple of 16.
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    inside_ = top - kSavedRegisters;
    for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
#else
    getcontext(&inside_);
    inside_.uc_stack = {bottom_, 0, kStackSize};
    inside_.uc_link = nullptr;
    makecontext(&inside_, entry, 0);
#endif
  }
  ~Fiber() { munmap(bottom_, kStackSize); }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void resume() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack;
    __sanitizer_start_switch_fiber(&fake_stack, bottom_, kStackSize);
#endif
#if defined(__x86_64__)
    cuda_emulator_switch(&outside_, inside_);
#else
    swapcontext(&outside_, &inside_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  void suspend() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack;
    __sanitizer_start_switch_fiber(&fake_stack, outside_bottom_, outside_size_);
#endif
#if defined(__x86_64__)
    cuda_emulator_switch(&inside_, outside_);
#else
    swapcontext(&inside_, &outside_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, &outside_bottom_, &outside_size_);
#endif
  }

  // To be called first by the entry.
  void entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &outside_bottom_, &outside_size_);
#endif
  }

 private:
  static constexpr size_t kStackSize = size_t{256} << 10;  // AddressSanitizer makes frames large

  char* bottom_;
#if defined(__x86_64__)
  void *inside_, *outside_;
#else
  ucontext_t inside_, outside_;
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* outside_bottom_ = nullptr;
  size_t outside_size_ = 0;
#endif
};

}  // namespace cuda_emulator
