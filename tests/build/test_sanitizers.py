"""The kernels without torch under AddressSanitizer. `make sanitize` has more checks, which take longer."""

from __future__ import annotations

import subprocess

import pytest
from cxx_programs import COMPILER, ROOT, build_programs, kernel_program, scalar_and_fastest


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
def test_kernels_under_address_sanitizer() -> None:
    isas = scalar_and_fastest()
    # With optimizations it would compile for minutes.
    program = kernel_program(isas, "-O0 -g1 -fsanitize=address")
    (path,) = build_programs(ROOT / "build/test_sanitizers", {"kernels": program}).values()
    finished = subprocess.run([path], capture_output=True, text=True, timeout=600, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("6 runs the same") == 4 * len(isas)  # of each dtype
