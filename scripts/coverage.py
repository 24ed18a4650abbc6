"""`make coverage`: which lines of csrc/ and lenet_ext/ the tests run. Compiles a copy into build/coverage.

The kernels of csrc/cuda run in the emulator, in a library of their own, which is compiled anew for this.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build/coverage"
LIBRARY = FOLDER / "lib"
SETTINGS = ROOT / "tests/coverage.ini"
# These compile or run other builds than the one that is measured.
LEFT_OUT = [
    *("build/test_build.py", "build/test_simd.py", "build/test_sanitizers.py"),
    *("cuda/test_cuda_emulator.py", "cuda/test_gpu_report.py"),
]
MEASURED = {"CXXFLAGS": "-O1 -g1 --coverage"}
EMULATOR = ROOT / "build/cuda_emulator"


def run(*command: object, **environment: str) -> None:
    subprocess.run([str(part) for part in command], cwd=ROOT, env=os.environ | environment, check=True)


def run_tests(*arguments: object, **environment: str) -> None:
    quiet = ("-q", "-p", "no:cacheprovider")
    measured = ("--cov", f"--cov-config={SETTINGS}", "--cov-report=", "--cov-append")
    run(
        sys.executable,
        "tests/helpers/pytest_installed.py",
        LIBRARY,
        *quiet,
        *measured,
        *arguments,
        **environment,
    )


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    build = ("build", f"--build-temp={FOLDER}/objects", f"--build-lib={LIBRARY}")
    run(sys.executable, "setup.py", "-q", *build, **MEASURED, LENET_EXT_CUDA="0")
    for old in [*FOLDER.rglob("*.gcda"), *EMULATOR.rglob("*.gcda"), *FOLDER.glob(".coverage*")]:
        old.unlink()
    environment = {
        "PYTHONPATH": str(LIBRARY),
        "OMP_NUM_THREADS": "1",
        "HYPOTHESIS_PROFILE": "few",
        "COVERAGE_FILE": f"{FOLDER}/.coverage",
    }
    left_out = [f"--ignore=tests/{name}" for name in LEFT_OUT]
    workers = ("-n", os.environ.get("PYTEST_WORKERS", "2"))
    run_tests(*workers, *left_out, **environment)
    usable = "import lenet_ext; print(*lenet_ext.build_info()['isas_usable'])"
    printed = subprocess.run(
        [sys.executable, "-c", usable],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    for isa in printed.stdout.split():
        run_tests("--kernels", **environment, LENET_EXT_ISA=isa)
    emulated = ("tests/cuda/test_cuda_emulator.py", "-k", "test_operators or test_devices")
    run(sys.executable, "-m", "pytest", "-q", *workers, *emulated, **MEASURED)
    report = ("-m", "coverage", "report", f"--rcfile={SETTINGS}", "--skip-covered", "--sort=cover")
    run(sys.executable, *report, COVERAGE_FILE=environment["COVERAGE_FILE"])
    objects = (f"{FOLDER}/objects", EMULATOR)
    report = ("-m", "gcovr", "--root", ROOT, "--filter=csrc/", "--sort=uncovered-percent")
    # Counts may overflow and, with threads, be off by some: lines count as run or not run.
    lenient = ("--merge-lines", "--exclude-unreachable-branches", "--gcov-ignore-parse-errors=all")
    run(sys.executable, *report, *lenient, *objects)


if __name__ == "__main__":
    main()
