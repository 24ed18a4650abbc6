"""`make coverage`: which lines of csrc/ and lenet_ext/ the tests run. Compiles a copy into build/coverage.

csrc/cuda is left out: its kernels run on a GPU or in the emulator, in libraries of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build/coverage"
SETTINGS = ROOT / "tests/coverage.ini"
# These compile or run other builds than the one that is measured.
LEFT_OUT = ["test_cuda_emulator.py", "test_build.py", "test_gpu_report.py"]
# Run once more for every instruction set.
PER_ISA = [
    "relu",
    "linear",
    "stacked_linear",
    "max_pool2d",
    "conv2d",
    "net",
    "wide_layers",
    "winograd",
    "single_images",
]
# Not `python -m pytest`, which would import the package of the current folder: that one is not measured.
RUN_PYTEST = """
import importlib.util, sys
sys.path.remove("")
import pytest
found = importlib.util.find_spec("lenet_ext").origin
assert "coverage" in found, found
sys.exit(pytest.main())
"""
COMPILE = {"CXXFLAGS": "-O1 -g1 --coverage", "LENET_EXT_CUDA": "0"}


def run(*command: object, **environment: str) -> None:
    subprocess.run([str(part) for part in command], cwd=ROOT, env=os.environ | environment, check=True)


def run_tests(*arguments: object, **environment: str) -> None:
    quiet = ("-q", "-p", "no:cacheprovider")
    measured = ("--cov", f"--cov-config={SETTINGS}", "--cov-report=", "--cov-append")
    run(sys.executable, "-c", RUN_PYTEST, *quiet, *measured, *arguments, **environment)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    library = FOLDER / "lib"
    build = ("build", f"--build-temp={FOLDER}/objects", f"--build-lib={library}")
    run(sys.executable, "setup.py", "-q", *build, **COMPILE)
    for old in [*FOLDER.rglob("*.gcda"), *FOLDER.glob(".coverage*")]:
        old.unlink()
    environment = {
        "PYTHONPATH": str(library),
        "OMP_NUM_THREADS": "1",
        "HYPOTHESIS_PROFILE": "few",
        "COVERAGE_FILE": f"{FOLDER}/.coverage",
    }
    left_out = [f"--ignore=tests/{name}" for name in LEFT_OUT]
    run_tests("-n", os.environ.get("PYTEST_WORKERS", "2"), *left_out, **environment)
    usable = "import lenet_ext; print(*lenet_ext.build_info()['isas_usable'])"
    printed = subprocess.run(
        [sys.executable, "-c", usable],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    for isa in printed.stdout.split():
        run_tests(*(f"tests/test_{name}.py" for name in PER_ISA), **environment, LENET_EXT_ISA=isa)
    report = ("-m", "coverage", "report", f"--rcfile={SETTINGS}", "--skip-covered", "--sort=cover")
    run(sys.executable, *report, COVERAGE_FILE=environment["COVERAGE_FILE"])
    objects = (
        f"{FOLDER}/objects",
        "--filter=csrc/",
        "--exclude=csrc/cuda/",
        "--exclude-unreachable-branches",
    )
    # Counts may overflow and, with threads, be off by some: lines count as run or not run.
    lenient = ("--merge-lines", "--gcov-ignore-parse-errors=all")
    run(sys.executable, "-m", "gcovr", "--root", ROOT, *objects, *lenient, "--sort=uncovered-percent")


if __name__ == "__main__":
    main()
