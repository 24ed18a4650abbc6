"""Operators beside native torch, the fused engine beside every peer; benchmarks/README.md says how."""

from lenet_ext.benchmark.run import NAMES, run_benchmarks

__all__ = ["NAMES", "run_benchmarks"]
