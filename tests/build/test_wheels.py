"""scripts/build_wheels.py where it finds no python, and the lists of the versions that get a wheel."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build_wheels(folder: Path, *pythons: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "scripts/build_wheels.py",
        "--wheels",
        str(folder),
        "--torch",
        "2.13.0",
        *pythons,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def versions(file: str, pattern: str) -> list[str]:
    """Those in the part of a file that the pattern finds, as cp310."""
    found = re.search(pattern, (ROOT / file).read_text(), re.M)
    assert found is not None
    return re.findall(r"cp\d+", found[0])


@pytest.mark.parametrize("exists", [False, True])
def test_python_that_cannot_be_used(tmp_path: Path, exists: bool) -> None:
    name = str(tmp_path / "python3.10")
    if exists:
        # As a shim of a version manager is, whose version is not chosen.
        Path(name).write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
        Path(name).chmod(0o755)
    earlier = tmp_path / "lenet_ext-0.0.0-cp310-cp310-linux_x86_64.whl"
    earlier.touch()
    result = build_wheels(tmp_path, name)
    assert result.returncode == 1
    assert result.stderr == f"no wheel for {name}: it is not in PATH, or cannot make an environment\n"
    assert earlier.exists()


def test_same_versions_everywhere() -> None:
    source = (ROOT / "scripts/build_wheels.py").read_text()
    minors = re.search(r'PYTHONS = \[f"python3\.\{minor\}" for minor in range\((\d+), (\d+)\)\]', source)
    assert minors is not None
    wanted = [f"cp3{minor}" for minor in range(int(minors[1]), int(minors[2]))]
    assert versions("pyproject.toml", r"^build = .*") == wanted
    assert versions(".github/workflows/wheels.yml", r"^ +python: \[.*") == wanted
    assert f'requires-python = ">=3.{minors[1]}"' in (ROOT / "pyproject.toml").read_text()
