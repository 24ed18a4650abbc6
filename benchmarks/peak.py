"""The rate of multiply-adds that the CPU reaches when it does nothing else."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from time import perf_counter

from benchmarks.engines import find_compiler

# Accumulators and two factors fill the registers without leaving them, and are more than an FMA's latency
# times its rate. They tend to 1: a sum that grew would end at infinity.
SOURCE = """
#if defined(__AVX512F__)
enum { bytes = 64, accumulators = 24 };
#elif defined(__AVX__)
enum { bytes = 32, accumulators = 12 };
#else
enum { bytes = 16, accumulators = 12 };
#endif
typedef float Vector __attribute__((vector_size(bytes)));

extern "C" long multiply_adds(long rounds, float factor, float summand, float* sink) {
  const Vector a = factor - Vector{}, b = summand - Vector{};
  Vector sums[accumulators];
#pragma GCC unroll 24
  for (int i = 0; i < accumulators; ++i) sums[i] = b + float(i);
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < accumulators; ++i) sums[i] = sums[i] * a + b;
  }
  Vector total = {};
#pragma GCC unroll 24
  for (int i = 0; i < accumulators; ++i) total += sums[i];
  *sink = total[0];
  return 2 * rounds * accumulators * (bytes / long(sizeof(float)));
}
"""
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-x", "c++")
ROUNDS = 1_000_000  # some 10 ms
RUNS = 15


def measured_peak(threads: int) -> float | None:
    """10^9 float32 operations a second on so many threads, the best of several runs.

    By a loop that is compiled here for this CPU; None where there is no C++ compiler.
    """
    loop = _compiled_loop()
    return None if loop is None else max(_rate(loop, threads) for _ in range(RUNS))


def _rate(loop: Callable[[], int], threads: int) -> float:
    barrier = Barrier(threads)

    def timed(_: int) -> tuple[int, float, float]:
        barrier.wait()
        start = perf_counter()
        return loop(), start, perf_counter()

    with ThreadPoolExecutor(threads) as pool:
        operations, starts, ends = zip(*pool.map(timed, range(threads)), strict=True)
    return sum(operations) / (max(ends) - min(starts)) / 1e9


def _compiled_loop() -> Callable[[], int] | None:
    if not find_compiler():
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "multiply_adds.so")
        command = [*find_compiler(), *FLAGS, "-", "-o", str(library)]
        if subprocess.run(command, input=SOURCE, text=True, capture_output=True).returncode != 0:
            return None
        function = ctypes.CDLL(str(library)).multiply_adds
    function.restype = ctypes.c_long
    function.argtypes = (ctypes.c_long, ctypes.c_float, ctypes.c_float, ctypes.POINTER(ctypes.c_float))
    return lambda: int(function(ROUNDS, 0.5, 0.5, ctypes.byref(ctypes.c_float())))
