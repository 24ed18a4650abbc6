"""The wrappers of csrc/cpu/simd against plain loops, bit for bit: all that this architecture's sets have."""

from __future__ import annotations

import re
import subprocess

import pytest
from cxx_programs import COMPILER, ROOT, SETUP, build_programs, simd_program

import lenet_ext

ISAS = [isa.name for isa in SETUP.isas_to_build()]


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("compute", SETUP.COMPUTE_TYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_wrappers(isa: str, compute: str) -> None:
    folder = ROOT / f"build/test_simd/{isa}_{compute}"
    (program,) = build_programs(folder, {"wrappers": simd_program(isa, compute)}).values()
    if isa not in lenet_ext.build_info()["isas_usable"]:
        pytest.skip(f"compiled, but {isa} is not offered by this CPU or was not built")
    finished = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    assert re.fullmatch(r"[1-9]\d* checks, 0 failed\n", finished.stdout)
