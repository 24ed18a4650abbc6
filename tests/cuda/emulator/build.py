"""Builds the operators over emulated CUDA kernels: a library that, once loaded, replaces those of the CPU.

The sources are the package's own, csrc/cuda/*.cu and csrc/ops, compiled by a C++ compiler. Of these
csrc/ops/backend.cpp, which chooses between CPU and CUDA, is replaced; frozen.cpp, which is no operator
and runs on the CPU alone, is left out.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import ninja
import torch
from ninja import ninja_syntax

EMULATOR = Path(__file__).resolve().parent
ROOT = EMULATOR.parents[2]
CSRC = ROOT / "csrc"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g"
LEFT_OUT = {"backend.cpp", "frozen.cpp"}
COMPILER = os.environ.get("CXX") or shutil.which("g++")


def flags(sanitized: bool) -> str:
    """What every source is compiled with; the emulator's headers come before any others."""
    optimize = f"-O1 {SANITIZERS}" if sanitized else f"-O2 {os.environ.get('CXXFLAGS', '')}"
    return (
        "-std=c++20 -fPIC -fvisibility=hidden -Wall -Wextra -Wno-unknown-pragmas "
        f"{optimize} -DTORCH_TARGET_VERSION=0x020a000000000000 -DLENET_EXT_DEFINES_OPERATORS=0 "
        f"-I{EMULATOR}/include -I{EMULATOR} -I{CSRC} -isystem {torch.__path__[0]}/include"
    )


def build(sanitized: bool = False) -> Path:
    """The library, compiled as far as it is not up to date."""
    folder = ROOT / "build" / ("cuda_emulator_sanitized" if sanitized else "cuda_emulator")
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "libcuda_emulator.so"
    with open(folder / "lock", "w") as lock:  # for tests that run at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        _write_rules(folder / "build.ninja", output, sanitized)
        program = shutil.which("ninja", path=ninja.BIN_DIR) or "ninja"
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        _run([program, "-C", str(folder), *jobs])
    return output


def _write_rules(path: Path, output: Path, sanitized: bool) -> None:
    operators = [source for source in sorted((CSRC / "ops").glob("*.cpp")) if source.name not in LEFT_OUT]
    kernels = [*sorted((CSRC / "cuda").rglob("*.cu")), *sorted((CSRC / "cuda").rglob("*.cpp"))]
    sources = [*kernels, *operators, EMULATOR / "backend.cpp", EMULATOR / "block.cpp"]
    with open(path, "w") as file:
        writer = ninja_syntax.Writer(file, width=10_000)
        command = f"{COMPILER} {flags(sanitized)} -MMD -MF $out.d -x c++ -c $in -o $out"
        writer.rule("cxx", command, "CXX $in", "$out.d", deps="gcc")
        libraries = f"-L{torch.__path__[0]}/lib -ltorch_cpu -ltorch"
        further = SANITIZERS if sanitized else os.environ.get("CXXFLAGS", "")
        link = f"{COMPILER} {further} -shared -o $out $in {libraries}"
        writer.rule("link", link, "LINK $out")
        objects = ["_".join((*source.parts[-3:-1], source.name)) + ".o" for source in sources]
        for object_file, source in zip(objects, sources, strict=True):
            writer.build(object_file, "cxx", str(source))
        writer.build(str(output), "link", objects)


def build_program(source: Path, output: Path, *macros: str) -> None:
    """Compiles one .cu file that has a main() of its own, with sanitizers."""
    command = [*shlex.split(str(COMPILER)), *shlex.split(flags(sanitized=True)), *(f"-D{m}" for m in macros)]
    _run([*command, "-x", "c++", str(source), str(EMULATOR / "block.cpp"), "-o", str(output)])


def sanitizer_runtime() -> str:
    """What a program that is not sanitized must load first to load the library that is."""
    command = [*shlex.split(str(COMPILER)), "-print-file-name=libasan.so"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _run(command: list[str]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise RuntimeError(finished.stdout + finished.stderr)


if __name__ == "__main__":
    print(build())
