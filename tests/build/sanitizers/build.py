"""Builds what `make sanitize` runs: the package with AddressSanitizer, and the kernels without torch."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import ninja
from ninja import ninja_syntax

ROOT = Path(__file__).resolve().parents[3]
CSRC = ROOT / "csrc"
FOLDER = ROOT / "build" / "sanitizers"
ADDRESS = "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
THREAD = "-O1 -g1 -fsanitize=thread -fno-omit-frame-pointer"
VALGRIND = "-O2 -g1"
AVX512 = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -Wno-maybe-uninitialized"
COMPILER = os.environ.get("CXX") or shutil.which("g++") or "g++"
CPUINFO = Path("/proc/cpuinfo")
HAS_AVX512 = CPUINFO.exists() and "avx512vl" in CPUINFO.read_text()
ISAS = ["avx512", "scalar"] if HAS_AVX512 else ["scalar"]
# Program: flags of all its files, instruction set, flags of the set.
PROGRAMS = {
    "thread_scalar": (THREAD, "scalar", ""),
    **({"thread_avx512": (THREAD, "avx512", AVX512)} if HAS_AVX512 else {}),
    "valgrind_scalar": (VALGRIND, "scalar", ""),
}


def build_package() -> Path:
    """The folder to put in PYTHONPATH: the whole package, its module sanitized, for the CPU alone."""
    environment = {**os.environ, "CXXFLAGS": ADDRESS, "LENET_EXT_CUDA": "0"}
    library = FOLDER / "address"
    folders = [f"--build-temp={FOLDER}/address_objects", f"--build-lib={library}"]
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", *folders], cwd=ROOT, env=environment, check=True
    )
    return library


def build_programs() -> dict[str, Path]:
    """kernels.cpp with the kernels of one instruction set each."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    outputs = {name: FOLDER / name for name in PROGRAMS}
    with open(FOLDER / "build.ninja", "w") as file:
        writer = ninja_syntax.Writer(file, width=10_000)
        compile_command = f"{COMPILER} -std=c++20 -Wall -Wextra -Wno-uninitialized $flags -I{CSRC}"
        writer.rule(
            "cxx", f"{compile_command} -MMD -MF $out.d -c $in -o $out", "CXX $out", "$out.d", deps="gcc"
        )
        writer.rule("link", f"{COMPILER} $flags -o $out $in -pthread", "LINK $out")
        for name, (flags, isa, isa_flags) in PROGRAMS.items():
            objects = []
            for source in (f"isa_{isa}", f"isa_{isa}_double", "kernels"):
                objects.append(f"{FOLDER}/{name}_{source}.o")
                own = isa_flags if source != "kernels" else f"-DKERNELS={isa}_kernels"
                path = Path(__file__).parent if source == "kernels" else CSRC / "cpu/dispatch"
                writer.build(
                    objects[-1], "cxx", f"{path}/{source}.cpp", variables={"flags": f"{flags} {own}"}
                )
            writer.build(str(outputs[name]), "link", objects, variables={"flags": flags})
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    program = shutil.which("ninja", path=ninja.BIN_DIR) or "ninja"
    subprocess.run([program, "-C", str(FOLDER), *jobs], check=True)
    return outputs


def preloaded() -> str:
    """What Python must load first: the sanitizer, and the library whose exceptions it watches."""
    names = ("libasan.so", "libstdc++.so.6")
    command = [*shlex.split(COMPILER), "-print-file-name="]
    return " ".join(
        subprocess.run(
            [*command[:-1], command[-1] + name], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in names
    )
