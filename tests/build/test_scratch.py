"""The kernels' working memory: where its blocks lie, and that none of them overlap."""

from __future__ import annotations

import subprocess

import pytest
from cxx_programs import COMPILER, ROOT, build_programs, scratch_program


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
def test_blocks_lie_side_by_side() -> None:
    (program,) = build_programs(ROOT / "build/test_scratch", {"scratch": scratch_program()}).values()
    finished = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "0 failed\n"
