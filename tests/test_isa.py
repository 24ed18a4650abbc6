"""Every instruction set that was built and that this CPU has, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lenet_ext

TESTS = Path(__file__).parent
INFO = lenet_ext.build_info()


def run(isa: str | None, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "LENET_EXT_ISA"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    environment |= {} if isa is None else {"LENET_EXT_ISA": isa}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("isa", INFO["isas_usable"])
def test_every_operator(isa: str) -> None:
    finished = run(isa, str(TESTS / "isa_parity.py"))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == isa


def test_build_info() -> None:
    assert set(INFO["isas_usable"]) <= set(INFO["isas"])
    assert "scalar" in INFO["isas_usable"]
    assert lenet_ext.cpu_isa() == INFO["isa"]
    assert INFO["version"] == lenet_ext.__version__


def test_the_fastest_is_the_default() -> None:
    finished = run(None, "-c", "import lenet_ext; print(lenet_ext.cpu_isa())")
    ranking = ["avx512", "avx2", "neon", "scalar"]
    assert finished.stdout.strip() == min(INFO["isas_usable"], key=ranking.index)


@pytest.mark.parametrize("isa", ["sse9", "AVX2 ", *({"neon", "avx2", "avx512"} - set(INFO["isas_usable"]))])
def test_unknown_or_missing_ones_are_an_import_error(isa: str) -> None:
    code = "try:\n    import lenet_ext\nexcept ImportError as error:\n    print(error)"
    finished = run(isa, "-c", code)
    assert finished.returncode == 0, finished.stderr
    assert "LENET_EXT_ISA" in finished.stdout
    assert isa in finished.stdout
    assert all(usable in finished.stdout for usable in INFO["isas_usable"])
