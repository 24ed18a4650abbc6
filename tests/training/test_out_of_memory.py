"""Memory that runs out ends the program in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import python
from training_helpers import Program

from lenet_ext.training import session

OUT_OF_MEMORY = {
    "you": MemoryError(),
    "numpy": MemoryError(
        "Unable to allocate 7.28 TiB for an array with shape (10, 10) and data type float64"
    ),
    "torch": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 8000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "C++": RuntimeError("std::bad_alloc"),
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
}


@pytest.mark.parametrize("origin", OUT_OF_MEMORY)
def test_out_of_memory_is_one_line(program: Program, monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    def read(*arguments: object) -> None:
        try:
            raise OUT_OF_MEMORY[origin]
        except Exception as error:
            raise ValueError("some other library's view of it") from error

    monkeypatch.setattr(session, "load_dataset", read)
    wanted = {"torch": " for 8000 bytes more", "CUDA": " for 20.00 GiB more"}
    assert program.error("train") == f"not enough memory{wanted.get(origin, '')}"


def test_other_errors_keep_their_traceback(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(session, "load_dataset", read)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        program("train")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it says how much memory is in use")
def test_memory_that_is_not_there(tmp_path: Path) -> None:
    """For real: what is left after all imports is less than one copy of the pixels takes."""
    program = """
import re, resource, sys
import lenet_ext.commands.app, lenet_ext.commands.report, lenet_ext.training.digits
from lenet_ext.cli import main
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + (12 << 20), resource.RLIM_INFINITY))
main()
"""
    result = python("-c", program, "train", cwd=tmp_path, environment={"OMP_NUM_THREADS": "1"})
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("lenet-ext: error: not enough memory")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
