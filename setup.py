"""Builds `lenet_ext._C`: one object per source through ninja, the kernels once per CPU instruction set.

Environment: CXX (compiler), CXXFLAGS (further flags; where CUDA is left out, when linking too),
LENET_EXT_ISAS (the instruction sets to build, for example scalar,avx2; default: all of the architecture),
LENET_EXT_CUDA=0|1 (default: 1 where nvcc is found), TORCH_CUDA_ARCH_LIST, CUDA_HOME, MAX_JOBS.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
OLDEST_TORCH = (2, 10)
OLDEST_NVCC = (12, 4)
NOT_FOR_NVCC = set('$"`')  # in paths, which it gives to a shell in double quotes
# Operators are bound through torch's stable ABI as of this version: the module runs under any newer torch.
TORCH_TARGET = "0x020a000000000000"

# What the compiler must know besides C++20: a 16-bit float, under the name that csrc/dtype.h gives it.
COMPILER_PROBE = """
#include "dtype.h"
float half(lenet_ext::Float16 value) { return lenet_ext::to_compute(value); }
"""

# Of every C++ source. No code here asks for errno or for floating-point exceptions.
FLAGS = "-std=c++20 -O3 -fno-math-errno -fno-trapping-math -Wall -Wextra"
# GCC 12 takes the _mm512_undefined of its own intrinsics for a mistake of ours.
ISA_WARNINGS = "-Wno-uninitialized -Wno-maybe-uninitialized"


class Isa(NamedTuple):
    """An instruction set: the template in csrc/cpu/simd/<name>.h, and the compiler's flags.

    Only kernel_table.cpp is compiled with these flags, once for each set and compute type.
    """

    name: str
    template: str
    flags: str = ""


SCALAR = Isa("scalar", "Scalar1")
# The order is the link order: where two objects hold the same inline function of the standard library, the
# linker keeps the first, which every CPU can run. The fastest is the last.
ISAS: dict[str, list[Isa]] = {
    "x86_64": [
        SCALAR,
        Isa("avx2", "Avx2", "-mavx2 -mfma -mf16c"),
        Isa("avx512", "Avx512", "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c"),
    ],
    "aarch64": [SCALAR, Isa("neon", "Neon")],
}
COMPUTE_TYPES = ("float", "double")


DEFAULT_ARCHITECTURES = "8.0 9.0+PTX"
# The names that torch.utils.cpp_extension takes in TORCH_CUDA_ARCH_LIST too.
NAMED_ARCHITECTURES = {
    "Maxwell": "5.0 5.2+PTX",
    "Maxwell+Tegra": "5.3",
    "Pascal": "6.0 6.1+PTX",
    "Volta": "7.0+PTX",
    "Volta+Tegra": "7.2",
    "Turing": "7.5+PTX",
    "Ampere": "8.0 8.6+PTX",
    "Ampere+Tegra": "8.7",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0 10.3 12.0 12.1+PTX",
    "Blackwell+Tegra": "11.0",
}


class BuildError(SystemExit):
    """Ends the build with one line that says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(f"lenet_ext: {message}")


def version_tuple(text: str) -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", text)
    if not found:
        raise BuildError(f"cannot read a version from {text!r}")
    return int(found[1]), int(found[2])


def names_in(variable: str, default: str) -> list[str]:
    """What an environment variable lists; the default if that is nothing."""
    listed = re.split(r"[;,\s]+", os.environ.get(variable, ""))
    return list(filter(None, listed)) or default.split()


def isas_to_build() -> list[Isa]:
    """Those of this machine's architecture, or of these the ones that LENET_EXT_ISAS names."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    known = ISAS.get(machine, [SCALAR])
    names = [isa.name for isa in known]
    wanted = names_in("LENET_EXT_ISAS", " ".join(names))
    if unknown := [name for name in wanted if name not in names]:
        raise BuildError(f"LENET_EXT_ISAS names {unknown[0]!r}, there are {', '.join(names)}")
    return [isa for isa in known if isa.name in wanted]


def find_compiler() -> str:
    compiler = os.environ.get("CXX", "").strip() or next(
        filter(shutil.which, ("g++", "c++", "clang++")), None
    )
    if compiler is None or shutil.which(shlex.split(compiler)[0]) is None:
        raise BuildError(
            f"no C++ compiler found{f' at CXX={compiler}' if compiler else ''}: "
            "install g++ 12 or newer (Debian: apt install g++), or set CXX"
        )
    probe = [*shlex.split(compiler), "-std=c++20", f"-I{ROOT}/csrc", "-x", "c++", "-fsyntax-only", "-"]
    if subprocess.run(probe, input=COMPILER_PROBE, text=True, capture_output=True).returncode != 0:
        raise BuildError(
            f"{compiler} is too old (no C++20 with 16-bit floats): install g++ 12 or newer, or set CXX"
        )
    return compiler


def host_compiler_flags(compiler: str) -> str:
    """What nvcc is to be told of CXX, which may be `ccache g++ -m64`: nvcc takes the compiler alone."""
    words = shlex.split(compiler)
    programs = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    flags = [f"-Xcompiler={word}" for word in words[len(programs) :]]
    return shlex.join([f"-ccbin={programs[-1]}", *flags])


def ninja_path(path: Path) -> str:
    """For ninja_syntax, which sees to blanks and colons alone, and to dollars before blanks."""
    return re.sub(r"\$(?! )", "$$", str(path))


def find_python_headers() -> str:
    folder = sysconfig.get_path("include")
    if not Path(folder, "Python.h").is_file():
        raise BuildError(
            f"Python.h is not in {folder}: install Python's headers (Debian: apt install python3-dev)"
        )
    return folder


def find_torch() -> Path:
    """The folder of the installed torch, whose headers are compiled against."""
    try:
        import torch
    except ImportError:
        raise BuildError(
            "torch is not installed in the build environment: pip install 'torch>=2.10' and build with "
            "--no-build-isolation"
        ) from None
    if version_tuple(torch.__version__) < OLDEST_TORCH:
        raise BuildError(
            f"torch {torch.__version__} is too old, 2.10 or newer is needed: pip install 'torch>=2.10'"
        )
    return Path(torch.__path__[0])


def find_nvcc(sources: list[Path], folder: Path) -> str | None:
    """nvcc, or None where CUDA is not to be compiled in. folder: where the objects are to go."""
    choice = os.environ.get("LENET_EXT_CUDA")
    if choice not in (None, "", "0", "1"):
        raise BuildError(f"LENET_EXT_CUDA must be 0 or 1, got {choice!r}")
    if choice == "0" or not sources:
        return None
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    problem = "nvcc was not found: install the CUDA toolkit or set CUDA_HOME"
    if nvcc is not None:
        printed = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        release = re.search(r"release (\d+\.\d+)", printed)
        if release is None:
            problem = f"{nvcc} --version names no release"
        elif version_tuple(release[1]) < OLDEST_NVCC:
            problem = f"{nvcc} is CUDA {release[1]}, {OLDEST_NVCC[0]}.{OLDEST_NVCC[1]} or newer is needed"
        elif NOT_FOR_NVCC & set(f"{ROOT}{folder}"):
            problem = f'nvcc compiles nothing in a folder with $, " or ` in its name: {ROOT}'
        else:
            return nvcc
    if choice == "1":
        raise BuildError(f"LENET_EXT_CUDA=1, but {problem}")
    print(f"lenet_ext: building without CUDA: {problem}")
    return None


def cuda_architectures() -> list[str]:
    """For example ["8.0", "9.0+PTX"]."""
    architectures = []
    for name in names_in("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES):
        numbers = NAMED_ARCHITECTURES.get(name.removesuffix("+PTX"), name).split()
        if not all(re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", number) for number in numbers):
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST names {name!r}: it takes numbers like 8.0 or 9.0+PTX and "
                + ", ".join(NAMED_ARCHITECTURES)
            )
        if name.endswith("+PTX"):
            numbers[-1] = numbers[-1].removesuffix("+PTX") + "+PTX"
        architectures += numbers
    return list(dict.fromkeys(architectures))


def gencode_flags(architectures: list[str]) -> list[str]:
    flags = []
    for architecture in architectures:
        number = architecture.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if architecture.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class Unit(NamedTuple):
    """A source to compile, with flags of its own; `variant` tells its objects apart where it has several."""

    source: Path
    flags: str = ""
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.source.name} {self.variant}".rstrip()

    @property
    def object(self) -> str:
        parts = [*self.source.relative_to(ROOT / "csrc").parts, *self.variant.split()]
        return "_".join(parts) + ".o"


def compile_units(isas: list[Isa], cuda: bool) -> list[Unit]:
    """Everything that is linked, in that order."""
    csrc = ROOT / "csrc"
    sets = " ".join(f"X({isa.name}, {isa.template})" for isa in isas)
    chooser = Unit(csrc / "cpu/dispatch/isa.cpp", f"'-DLENET_EXT_ISAS(X)={sets}'")
    general = [Unit(csrc / "module.cpp"), *map(Unit, sorted((csrc / "ops").glob("*.cpp"))), chooser]
    tables = [
        Unit(
            csrc / "cpu/dispatch/kernel_table.cpp",
            f"""{isa.flags} -DLENET_EXT_SIMD={isa.template} -DLENET_EXT_COMPUTE={compute} """
            f"""'-DLENET_EXT_SIMD_HEADER="cpu/simd/{isa.name}.h"' {ISA_WARNINGS}""",
            f"{isa.name} {compute}",
        )
        for isa in isas
        for compute in COMPUTE_TYPES
    ]
    if not cuda:
        return general + tables
    return [
        *general,
        *map(Unit, sorted((csrc / "cuda").rglob("*.cpp"))),
        *tables,
        *map(Unit, sorted((csrc / "cuda").rglob("*.cu"))),
    ]


class NinjaBuild(build_ext):
    """Writes build.ninja with per-file flags and runs it."""

    def build_extension(self, ext: Extension) -> None:
        import ninja
        import pybind11
        from ninja import ninja_syntax

        compiler, torch_folder = find_compiler(), find_torch()
        # An editable build keeps its objects: the next one compiles only what changed.
        folder = (ROOT / "build/editable" if self.editable_mode else Path(self.build_temp)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)

        isas = isas_to_build()
        cuda_sources = sorted((ROOT / "csrc/cuda").rglob("*.cu"))
        nvcc = find_nvcc(cuda_sources, folder)
        architectures = cuda_architectures() if nvcc else []
        version = re.findall(r'"(.+)"', (ROOT / "lenet_ext/_version.py").read_text(encoding="utf-8"))[0]
        # pybind11 first: torch brings a copy of it, which refuses TORCH_TARGET_VERSION in torch 2.10.
        includes = [pybind11.get_include(), torch_folder / "include", find_python_headers()]
        defines = {
            "TORCH_TARGET_VERSION": TORCH_TARGET,
            "LENET_EXT_VERSION": f'\\"{version}\\"',
            "LENET_EXT_CUDA": "1" if nvcc else "0",
            "LENET_EXT_CUDA_ARCHS": f'\\"{",".join(architectures)}\\"',
        }
        common = " ".join(
            [
                f"-I{shlex.quote(f'{ROOT}/csrc')}",
                *(f"-isystem {shlex.quote(str(path))}" for path in includes),
                *(f"-D{k}={v}" for k, v in defines.items()),
            ]
        )

        # What comes from outside holds nothing for ninja to expand.
        further = ninja_syntax.escape(os.environ.get("CXXFLAGS", ""))
        common, host = ninja_syntax.escape(common), ninja_syntax.escape(host_compiler_flags(compiler))
        compiler, nvcc_command = ninja_syntax.escape(compiler), ninja_syntax.escape(shlex.quote(nvcc or ""))
        # The bytes of paths, whatever the locale is.
        encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
        with open(folder / "build.ninja", "w", encoding=encoding, errors=errors) as file:
            writer = ninja_syntax.Writer(file, width=10_000)
            flags = f"{FLAGS} -fPIC -fvisibility=hidden {common} {further}"
            writer.rule(
                "cxx",
                f"{compiler} $own {flags} -MMD -MF $out.d -c $in -o $out",
                "CXX $name",
                "$out.d",
                deps="gcc",
            )
            if nvcc:
                gencode = " ".join(gencode_flags(architectures))
                writer.rule(
                    "nvcc",
                    f"{nvcc_command} {host} -std=c++20 -O3 -Xcompiler -fPIC,-fvisibility=hidden "
                    "-Xfatbin -compress-all "
                    f"{gencode} {common} -MMD -MF $out.d -c $in -o $out",
                    "NVCC $name",
                    "$out.d",
                    deps="gcc",
                )
            # Torch's libraries stay needed even where nothing but a weak symbol is used of them.
            # GCC's own library first as an archive: of its shared one, the conversions of 16-bit floats need
            # version 12, and the wheel a newer system.
            # The symbols of archives stay inside. Torch may bring another runtime of CUDA; and where a
            # compiler links libstdc++ as an archive, a number in an error message would be written half by
            # that and half by the libstdc++ of torch, and crash.
            libraries = "-Xlinker --exclude-libs=ALL -Xlinker --no-as-needed -ltorch_cpu -ltorch -lgcc"
            libraries = ninja_syntax.escape(f"-L{shlex.quote(f'{torch_folder}/lib')} {libraries}")
            linker = f"{compiler} {further}"
            if nvcc:
                linker = f"{nvcc_command} {host} -cudart static"  # it knows where its runtime lies
            writer.rule("link", f"{linker} -shared -o $out $in {libraries}", "LINK $out")

            units = compile_units(isas, cuda=nvcc is not None)
            # ninja begins with what is written first: the kernels, which take longest.
            for unit in reversed(units):
                rule = "nvcc" if unit.source.suffix == ".cu" else "cxx"
                variables = {"own": unit.flags, "name": unit.name}
                writer.build(
                    ninja_path(folder / unit.object), rule, ninja_path(unit.source), variables=variables
                )
            objects = [ninja_path(folder / unit.object) for unit in units]
            writer.build(ninja_path(output), "link", objects)

        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        program = shutil.which("ninja", path=ninja.BIN_DIR) or "ninja"
        if subprocess.run([program, "-C", str(folder), *jobs], stdout=sys.stderr).returncode != 0:
            raise BuildError("the compiler failed: its messages are above")


if __name__ == "__main__":  # the tests import this file for its flags
    setup(ext_modules=[Extension("lenet_ext._C", sources=[])], cmdclass={"build_ext": NinjaBuild})
