"""Builds what `make sanitize` runs: the package with AddressSanitizer, and the kernels without torch."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from cxx_programs import COMPILER, ROOT, build_programs, kernel_program, scalar_and_fastest

FOLDER = ROOT / "build/sanitizers"
ADDRESS = "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
THREAD = "-O1 -g1 -fsanitize=thread -fno-omit-frame-pointer"
VALGRIND = "-O2 -g1"
ISAS = scalar_and_fastest()
NOT_IN_VALGRIND = {"avx512"}


def build_package() -> Path:
    """The folder to put in PYTHONPATH: the whole package, its module sanitized, for the CPU alone."""
    environment = {
        **os.environ,
        "CXXFLAGS": ADDRESS,
        "LENET_EXT_CUDA": "0",
        "LENET_EXT_ISAS": ",".join(ISAS),
    }
    library = FOLDER / "address"
    folders = [f"--build-temp={FOLDER}/address_objects", f"--build-lib={library}"]
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", *folders], cwd=ROOT, env=environment, check=True
    )
    return library


def build_kernels() -> dict[str, Path]:
    """kernels/main.cpp: the programs `thread` and `valgrind`."""
    in_valgrind = [isa for isa in ISAS if isa not in NOT_IN_VALGRIND]
    programs = {
        "thread": kernel_program(ISAS, THREAD),
        "valgrind": kernel_program(in_valgrind, VALGRIND),
    }
    return build_programs(FOLDER / "kernels", programs)


def preloaded() -> str:
    """What Python must load first: the sanitizer, and the library whose exceptions it watches."""
    names = ("libasan.so", "libstdc++.so.6")
    command = [*shlex.split(str(COMPILER)), "-print-file-name="]
    return " ".join(
        subprocess.run(
            [*command[:-1], command[-1] + name], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in names
    )
