"""pytest on another build of the package than this checkout's: `pytest_installed.py FOLDER ARGUMENTS`.

FOLDER is to be in PYTHONPATH as well. `python -m pytest` would import the package of the current folder.
Among the arguments, --kernels stands for the tests of the kernels: parity and hostile arguments.
"""

from __future__ import annotations

import importlib.util
import sys

import pytest
from processes import KERNEL_TESTS, test_file

# On the CPU the engine has more ways than on CUDA.
KERNELS = [*KERNEL_TESTS, "memory_safety", "wide_layers", "winograd", "single_images"]

if __name__ == "__main__":
    folder = sys.argv.pop(1)
    found = importlib.util.find_spec("lenet_ext")
    if found is None or not str(found.origin).startswith(folder):
        sys.exit(f"lenet_ext is not found in {folder}, but: {found}")
    if "--kernels" in sys.argv:
        place = sys.argv.index("--kernels")
        sys.argv[place : place + 1] = [str(test_file(name)) for name in KERNELS]
    sys.exit(pytest.main())
