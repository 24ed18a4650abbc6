"""`make sanitize`: builds with sanitizers, then runs every check with them and says how long each took.

Under AddressSanitizer and UBSan run the fuzz and the parity tests; under ThreadSanitizer and valgrind run the
kernels without torch (programs/kernels), since torch itself is not instrumented. All of them run on plain C++
and on the fastest instruction set of this CPU, except that valgrind does not know AVX-512.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import instrumented
from cxx_programs import ROOT

TESTS = ROOT / "tests"
ADDRESS_OPTIONS = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=1024"


class Checks:
    """Runs commands, each with a line on what came of it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed = False

    def run(self, name: str, *command: str | Path, **environment: str) -> None:
        print(f"== {name}", flush=True)
        start = time.monotonic()
        code = subprocess.run([str(part) for part in command], env=os.environ | environment).returncode
        self.failed |= code != 0
        verdict = "passed" if code == 0 else f"FAILED (exit code {code})"
        self.lines.append(f"{name}: {verdict}, {time.monotonic() - start:.0f} s")


def check_address(checks: Checks, library: Path, isa: str) -> None:
    environment = {
        "PYTHONPATH": str(library),
        "LD_PRELOAD": instrumented.preloaded(),
        "ASAN_OPTIONS": ADDRESS_OPTIONS,
        "LENET_EXT_ISA": isa,
        "OMP_NUM_THREADS": "2",
    }
    pytest = (sys.executable, TESTS / "helpers/pytest_installed.py", library, "-q")
    no_plugins = ("-p", "no:cacheprovider", "-p", "no:xdist")
    fuzz = os.environ.get("HYPOTHESIS_PROFILE", "thousands")
    checks.run(
        f"fuzz under AddressSanitizer and UBSan, {isa}",
        *(*pytest, *no_plugins, TESTS / "ops/test_fuzz.py"),
        **environment,
        HYPOTHESIS_PROFILE=fuzz,
    )
    checks.run(
        f"parity under AddressSanitizer and UBSan, {isa}",
        *(*pytest, *no_plugins, "--kernels"),
        **environment,
        HYPOTHESIS_PROFILE="few",
    )


def main() -> int:
    checks = Checks()
    start = time.monotonic()
    library, programs = instrumented.build_package(), instrumented.build_kernels()
    checks.lines.append(f"build: {time.monotonic() - start:.0f} s")
    for isa in instrumented.ISAS:
        check_address(checks, library, isa)
    checks.run("kernels under ThreadSanitizer", programs["thread"])
    if valgrind := shutil.which("valgrind"):
        command = (valgrind, "-q", "--error-exitcode=1", "--leak-check=full", programs["valgrind"])
        checks.run("kernels under valgrind", *command)
    else:
        checks.lines.append("kernels under valgrind: skipped, it is not installed")
    print("\n" + "\n".join(checks.lines))
    return int(checks.failed)


if __name__ == "__main__":
    sys.exit(main())
