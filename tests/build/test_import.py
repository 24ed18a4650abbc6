"""`import lenet_ext` where there is no compiled module to import."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from processes import ROOT, python

CODE = "try:\n    import lenet_ext\nexcept ImportError as error:\n    print(error)"


def test_sources_that_are_not_compiled_say_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lenet_ext", tmp_path / "lenet_ext", ignore=shutil.ignore_patterns("*.so"))
    searched = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path.endswith("-packages"))])
    # -S leaves out the finder of an editable install, which knows where the compiled module lies.
    finished = python("-S", "-c", CODE, environment={"PYTHONPATH": searched}, cwd=tmp_path)
    (line,) = finished.stdout.splitlines()
    assert line.startswith(
        f"{tmp_path / 'lenet_ext'} holds the sources of lenet_ext without its compiled module"
    )
    assert "pip install --no-build-isolation -e ." in line


def test_what_else_is_missing_is_named_as_ever(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import something_missing")
    finished = python("-c", f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{CODE}")
    assert finished.stdout == "No module named 'something_missing'\n"


def test_the_program_starts_outside_of_the_package(tmp_path: Path) -> None:
    """What a wheel would hold: the module of the console script beside the package that it imports."""
    command = [
        *("setup.py", "-q", "egg_info", "--egg-base", tmp_path),
        *("build_py", "--build-lib", tmp_path / "lib"),
    ]
    built = python(*command, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    assert {path.name for path in (tmp_path / "lib").iterdir()} == {"_lenet_ext_cli.py", "lenet_ext"}
    (entry_points,) = tmp_path.glob("*.egg-info/entry_points.txt")
    assert "lenet-ext = _lenet_ext_cli:main" in entry_points.read_text()
