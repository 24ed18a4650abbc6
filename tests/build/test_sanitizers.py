"""What `make sanitize` compiles still compiles: running it takes too long for every change."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import ROOT

HERE = Path(__file__).resolve().parent
COMPILER = os.environ.get("CXX") or shutil.which("g++")


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
def test_the_driver_of_the_kernels_compiles() -> None:
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}", "-fsyntax-only"]
    command = [*shlex.split(str(COMPILER)), *flags, "-DKERNELS=scalar_kernels"]
    driver = str(HERE / "sanitizers/kernels.cpp")
    finished = subprocess.run([*command, driver], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
