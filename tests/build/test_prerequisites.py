"""scripts/check_prerequisites.sh: what `make` needs and does not find, in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from processes import ROOT
from source_tree import Tree


def check(tree: Tree, python: str = "python3", **environment: str) -> tuple[int, str]:
    finished = subprocess.run(
        ["/bin/sh", ROOT / "scripts/check_prerequisites.sh", python],
        env=tree.environment | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return finished.returncode, finished.stderr


def python_that_fails_on(tree: Tree, word: str) -> None:
    path = tree.programs / "python3"
    path.write_text(
        f'#!/bin/sh\ncase "$*" in --version) echo Python 3.9.2;; *{word}*) echo no >&2; exit 1;; esac\n'
    )
    path.chmod(0o755)


def test_all_there(tree: Tree) -> None:
    assert check(tree, sys.executable) == (0, "")


def test_python_is_missing(tree: Tree) -> None:
    code, message = check(tree)
    assert code == 1
    assert "python3 was not found: install Python 3.10" in message


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("version_info", "Python 3.9.2 is too old: install Python 3.10"),
        ("ensurepip", "apt install python3-venv"),
        ("Python.h", "apt install python3-dev"),
    ],
)
def test_python_does_not_fit(tree: Tree, word: str, expected: str) -> None:
    python_that_fails_on(tree, word)
    code, message = check(tree)
    assert code == 1
    assert expected in message


def test_compiler_is_missing(tree: Tree) -> None:
    (tree.programs / "g++").unlink()
    code, message = check(tree, sys.executable)
    assert code == 1
    assert message.startswith("lenet_ext: no C++ compiler was found: install g++ 12")


def test_compiler_of_cxx_is_missing(tree: Tree) -> None:
    code, message = check(tree, sys.executable, CXX="g++-99")
    assert code == 1
    assert "at CXX=g++-99" in message
