"""Our operators and the LeNet timed beside native torch; see benchmarks/README.md for how it is kept fair."""

from lenet_ext.benchmark.run import run_benchmarks

__all__ = ["run_benchmarks"]
