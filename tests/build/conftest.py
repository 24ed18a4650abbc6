"""Fixtures of the tests of the build."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.add_program("g++")
    return tree
