from typing import Any

def build_info() -> dict[str, Any]:
    """Version, compiler, instruction sets built and in use, CUDA and its architectures, torch target."""

def cpu_isa() -> str:
    """The instruction set in use: "avx512", "avx2", "neon" or "scalar"."""
