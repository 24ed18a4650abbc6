"""Every instruction set that was built and that this CPU has, each in a process of its own."""

from __future__ import annotations

import pytest
from processes import HELPERS, python

import lenet_ext

INFO = lenet_ext.build_info()


@pytest.mark.parametrize("isa", INFO["isas_usable"])
def test_every_operator(isa: str) -> None:
    finished = python(HELPERS / "isa_parity.py", environment={"LENET_EXT_ISA": isa})
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == isa


def test_build_info() -> None:
    assert set(INFO["isas_usable"]) <= set(INFO["isas"])
    assert "scalar" in INFO["isas_usable"]
    assert lenet_ext.cpu_isa() == INFO["isa"]
    assert INFO["version"] == lenet_ext.__version__


def test_the_fastest_is_the_default() -> None:
    finished = python(
        "-c", "import lenet_ext; print(lenet_ext.cpu_isa())", environment={"LENET_EXT_ISA": None}
    )
    ranking = ["avx512", "avx2", "neon", "scalar"]
    assert finished.stdout.strip() == min(INFO["isas_usable"], key=ranking.index)


@pytest.mark.parametrize(
    "isa", ["sse9", "AVX2 ", *sorted({"neon", "avx2", "avx512"} - set(INFO["isas_usable"]))]
)
def test_unknown_or_missing_ones_are_an_import_error(isa: str) -> None:
    code = "try:\n    import lenet_ext\nexcept ImportError as error:\n    print(error)"
    finished = python("-c", code, environment={"LENET_EXT_ISA": isa})
    assert finished.returncode == 0, finished.stderr
    assert "LENET_EXT_ISA" in finished.stdout
    assert isa in finished.stdout
    assert all(usable in finished.stdout for usable in INFO["isas_usable"])


# The bits of dot products by the raw operator: their partial sums are as many as a vector has elements.
BITS = """
generator = torch.Generator().manual_seed(0)
row = torch.randn(1, 301, generator=generator)
weight = torch.randn(50, 301, generator=generator)
output = torch.ops.lenet_ext.linear(row, weight, None)
print(output.view(torch.int32).flatten().tolist())
"""
BY_LIBRARY = f"import torch; torch.ops.load_library({lenet_ext._C.__file__!r}){BITS}"


def test_the_library_alone_has_the_operators_of_the_package() -> None:
    bits = {}
    for isa in (None, *INFO["isas_usable"]):
        by_package = python("-c", f"import torch, lenet_ext{BITS}", environment={"LENET_EXT_ISA": isa})
        by_library = python("-c", BY_LIBRARY, environment={"LENET_EXT_ISA": isa})
        assert by_library.returncode == 0, by_library.stderr
        assert by_library.stdout == by_package.stdout
        bits[isa] = by_library.stdout
    # It is the variable that makes the difference.
    assert bits[None] == bits[INFO["isas_usable"][-1]]
    assert len(set(bits.values())) == len(INFO["isas_usable"])


def test_the_library_alone_refuses_an_unknown_one_in_an_operator() -> None:
    finished = python("-c", BY_LIBRARY, environment={"LENET_EXT_ISA": "sse9"})
    assert finished.returncode == 1
    assert "RuntimeError: lenet_ext: LENET_EXT_ISA=sse9 is unknown" in finished.stderr
