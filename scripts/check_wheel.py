"""Installs the wheel into fresh environments, each of a python and a torch, and runs `lenet-ext check` there.

    python scripts/check_wheel.py --wheels dist python3.11:2.13.0 python3.12:2.10.0 -- --index-url ...

The wheels in the folder that fit a python are taken; for a python without one, it is built in its first
environment. What follows `--` goes to pip for torch. Prints a table; exit code 1 where a check failed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from build_wheels import ENVIRONMENT, build, environment, run, tag

VERSIONS = "import platform, torch, lenet_ext; print(platform.python_version(), torch.__version__, sep='|')"


class Result(NamedTuple):
    python: str
    torch: str
    wheel: str
    check: str
    passed: bool


def check(interpreter: str, torch: str, wheels: Path, pip_torch: list[str]) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        python = environment(interpreter, folder, torch, pip_torch)
        pattern = f"lenet_ext-*-{tag(python)}-*.whl"
        if not any(wheels.glob(pattern)):
            build(python, wheels)
        found = sorted(wheels.glob(pattern))
        if len(found) != 1:
            raise RuntimeError(f"{wheels}: wanted one wheel {pattern}, there are {len(found)}")
        wheel = found[0]
        run(python, "-m", "pip", "install", "-q", f"lenet_ext[cli] @ file://{wheel.resolve()}")
        versions = run(python, "-c", VERSIONS, cwd=Path(folder)).stdout.strip().split("|")
        finished = subprocess.run(
            [Path(folder, "bin/lenet-ext"), "check"],
            cwd=folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = finished.stdout.strip().splitlines()
        last = lines[-1].strip() if lines else finished.stderr.strip()
        return Result(versions[0], versions[1], wheel.name, last, finished.returncode == 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--wheels", type=Path, required=True, help="the folder of the wheels")
    parser.add_argument("checks", nargs="+", metavar="PYTHON:TORCH")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    arguments, pip_torch = parser.parse_args(given[:end]), given[end + 1 :]
    results: list[Result] = []
    for pair in arguments.checks:
        interpreter, _, torch = pair.rpartition(":")
        found = shutil.which(interpreter)
        if found is None:
            parser.error(f"there is no {interpreter}")
        try:
            results.append(check(found, torch, arguments.wheels, pip_torch))
        except RuntimeError as error:  # the other environments are still of interest
            print(error, file=sys.stderr)
            results.append(Result(interpreter, torch, "-", "could not be set up", False))
        print(f"| {' | '.join(map(str, results[-1][:4]))} |", flush=True)
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
