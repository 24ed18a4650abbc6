"""pytest on another build of the package than this checkout's: `pytest_installed.py FOLDER ARGUMENTS`.

FOLDER is to be in PYTHONPATH as well. `python -m pytest` would import the package of the current folder.
"""

from __future__ import annotations

import importlib.util
import sys

import pytest

if __name__ == "__main__":
    folder = sys.argv.pop(1)
    found = importlib.util.find_spec("lenet_ext")
    if found is None or not str(found.origin).startswith(folder):
        sys.exit(f"lenet_ext is not found in {folder}, but: {found}")
    sys.exit(pytest.main())
