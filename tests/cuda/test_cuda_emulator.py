"""The CUDA kernels on the CPU (emulator/): the tests of the operators, sanitized, in shuffled order.

First the emulator itself: does it see what it is there to see?
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import HELPERS, KERNEL_TESTS, ROOT, test_file

EMULATOR = Path(__file__).resolve().parent / "emulator"
sys.path.insert(0, str(EMULATOR))
pytest.importorskip("ninja")
import build  # noqa: E402

pytestmark = pytest.mark.skipif(build.COMPILER is None, reason="there is no C++ compiler")
SEEDS = ["0", "1", "2", "3"]
# Devices on which the fused engine takes other paths: with few multiprocessors a block has several images at
# once and several tiles, with little shared memory their values lie elsewhere.
DEVICES = {
    "one multiprocessor": {"CUDA_EMULATOR_MULTIPROCESSORS": "1"},
    "many multiprocessors": {"CUDA_EMULATOR_MULTIPROCESSORS": "100"},
    "little shared memory": {"CUDA_EMULATOR_SHARED": "1500"},
}


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    return subprocess.run(
        [str(part) for part in command],
        env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def compiled(name: str, folder: Path, *macros: str) -> Path:
    program = folder / name
    build.build_program(EMULATOR / f"programs/{name}.cu", program, *macros)
    return program


class TestEmulator:
    def test_sound_kernels(self, tmp_path: Path) -> None:
        """Barriers, shared memory, several blocks and shuffles, in every order."""
        program = compiled("reverse", tmp_path)
        reversed_blocks = [first + 63 - i for first in (0, 64, 128) for i in range(64)]
        sums = [sum(range(32))] * 64 + [sum(range(32, 64))] * 64
        for seed in SEEDS:
            finished = run(program, CUDA_EMULATOR_SEED=seed)
            assert finished.returncode == 0, finished.stderr
            assert [int(word) for word in finished.stdout.split()] == reversed_blocks + sums

    def test_missing_barrier(self, tmp_path: Path) -> None:
        program = compiled("reverse", tmp_path, "MISSING_BARRIER")
        assert len({run(program, CUDA_EMULATOR_SEED=seed).stdout for seed in SEEDS}) > 1

    def test_write_out_of_bounds(self, tmp_path: Path) -> None:
        finished = run(compiled("reverse", tmp_path, "OUT_OF_BOUNDS"))
        assert finished.returncode != 0
        assert "AddressSanitizer: heap-buffer-overflow" in finished.stderr

    def test_barrier_that_not_all_reach(self, tmp_path: Path) -> None:
        finished = run(compiled("reverse", tmp_path, "EARLY_END"))
        assert finished.returncode != 0
        assert "threads wait for one that has ended" in finished.stderr


def test_large_sizes_and_16_bit_numbers(tmp_path: Path) -> None:
    finished = run(compiled("numbers", tmp_path))
    assert (finished.returncode, finished.stdout) == (0, ""), finished.stderr


@pytest.mark.parametrize("operator", [*KERNEL_TESTS, "memory_safety"])
def test_operators(operator: str) -> None:
    """test_<operator>.py with the emulated kernels in place of the CPU's."""
    pytest_quietly = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
    finished = run(
        *(*pytest_quietly, test_file(operator), "--cuda-emulator", build.build()),
        HYPOTHESIS_PROFILE="few",
        CUDA_EMULATOR_SEED="1",
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("device", DEVICES)
def test_devices_of_other_sizes(device: str) -> None:
    """The results of the CPU's kernels there too; other bits, since blocks divide the batch otherwise."""
    program = (HELPERS / "cuda_results.py", "--emulator", build.build())
    finished = run(sys.executable, *program, CUDA_EMULATOR_SEED="1", **DEVICES[device])
    assert finished.returncode == 0, finished.stderr


def test_order_of_threads_does_not_matter() -> None:
    """The results of the CPU's kernels, bitwise the same in every order: no kernel lacks a barrier."""
    runs = [
        run(sys.executable, HELPERS / "cuda_results.py", "--emulator", build.build(), CUDA_EMULATOR_SEED=seed)
        for seed in SEEDS
    ]
    assert all(finished.returncode == 0 for finished in runs), runs[0].stderr
    assert len({finished.stdout for finished in runs}) == 1
    assert len(runs[0].stdout.strip()) == 64


def test_more_positions_than_fit() -> None:
    """Positions along an axis are 32-bit on CUDA: padding alone exceeds that without a large tensor."""
    code = """
import sys, torch, lenet_ext
torch.ops.load_library(sys.argv[1])
arguments = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 2, 1), None, 1, (2**29, 0), (2**30, 1)
try:
    lenet_ext.functional.conv2d(*arguments)
except RuntimeError as error:
    print(error)
"""
    finished = run(sys.executable, "-c", code, build.build())
    assert finished.stdout.startswith("conv2d: on CUDA the padded input must have less than 536870912 rows")


def test_sanitized() -> None:
    """No kernel reads or writes outside of a tensor or of shared memory, or relies on undefined behaviour."""
    finished = run(
        *(sys.executable, HELPERS / "cuda_results.py", "--emulator", build.build(sanitized=True)),
        LD_PRELOAD=build.sanitizer_runtime(),
        ASAN_OPTIONS="detect_leaks=0",
        CUDA_EMULATOR_SEED="1",
    )
    assert finished.returncode == 0, finished.stderr
