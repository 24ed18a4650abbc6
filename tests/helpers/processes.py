"""Where the files of the tests lie, and programs of a test in a Python of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HELPERS = Path(__file__).resolve().parent
TESTS = HELPERS.parent
ROOT = TESTS.parent
SEARCHED = os.pathsep.join(map(str, [ROOT, HELPERS, TESTS / "engine"]))


# The tests of the kernels, which each backend and each instruction set has to pass.
KERNEL_TESTS = [
    *("relu", "linear", "stacked_linear", "max_pool2d", "conv2d", "autograd", "linear_relu"),
    *("conv2d_relu_max_pool2d", "network_operators", "network_cuda", "fused", "train_step", "losses"),
]


def test_file(name: str) -> Path:
    """tests/<room>/test_<name>.py."""
    (found,) = TESTS.glob(f"*/test_{name}.py")
    return found


test_file.__test__ = False  # type: ignore[attr-defined]  # or pytest would take it for a test


def python(
    *arguments: str | Path, environment: dict[str, str | None] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a new Python in which `import lenet_ext` finds this package; None takes a variable out."""
    variables = {**os.environ, "PYTHONPATH": SEARCHED, **(environment or {})}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        **options,
    )
