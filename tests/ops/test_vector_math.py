"""csrc/cpu/math: errors within those that docs/kernels.md states, for each instruction set of this CPU."""

from __future__ import annotations

import pytest
import torch
from processes import HELPERS, python

import lenet_ext


@pytest.mark.parametrize("isa", lenet_ext.build_info()["isas_usable"])
def test_errors_in_float32(isa: str) -> None:
    finished = python(HELPERS / "vector_math.py", environment={"LENET_EXT_ISA": isa})
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == isa


def test_the_measure_of_errors() -> None:
    import vector_math

    one = torch.tensor([1.0, 1.0, 2.0, 0.0, torch.inf, torch.nan, torch.nan], dtype=torch.float32)
    exact = torch.tensor([1.0, 1 + 2**-23, 2 - 2**-23, 2**-150, 1e300, torch.nan, 0.0], dtype=torch.float64)
    assert vector_math.errors(one, exact).tolist() == [0, 1, 1, 0.5, 0, 0, torch.inf]
