"""C++ programs of the tests, made of the package's sources with the flags that setup.py gives them."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import ninja
from ninja import ninja_syntax

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests/build/programs"
COMPILER = os.environ.get("CXX") or shutil.which("g++")


def _import_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lenet_ext_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SETUP: Any = _import_setup()


class Program(NamedTuple):
    units: list[Any]  # SETUP.Unit
    flags: str = ""  # of all units, and of the linker


def isa_named(name: str) -> Any:
    """A SETUP.Isa of whatever architecture."""
    return next(isa for isas in SETUP.ISAS.values() for isa in isas if isa.name == name)


def scalar_and_fastest() -> list[str]:
    """Plain C++ and, where there is another one, the fastest instruction set of this CPU that was built."""
    import lenet_ext  # not needed, and perhaps not built, where programs are for another architecture

    return list(dict.fromkeys(["scalar", lenet_ext.build_info()["isas_usable"][-1]]))


def kernel_program(isas: list[str], flags: str = "") -> Program:
    """kernels/main.cpp, in the place of isa.cpp, with the kernels of these sets; scalar is the first."""
    units = SETUP.compile_units([isa_named(isa) for isa in isas], cuda=False)
    (chooser,) = [unit for unit in units if unit.source.name == "isa.cpp"]
    kernels = [unit for unit in units if unit.source.name == "kernel_table.cpp"]
    driver = chooser._replace(source=PROGRAMS / "kernels/main.cpp", flags=f"{chooser.flags} -Werror")
    return Program([driver, *kernels], flags)


def simd_program(isa: str, compute: str, flags: str = "") -> Program:
    """simd/main.cpp with the wrappers of one instruction set, compiled as its kernels are."""
    units = SETUP.compile_units([isa_named(isa)], cuda=False)
    (kernels,) = [unit for unit in units if unit.variant == f"{isa} {compute}"]
    return Program([kernels._replace(source=PROGRAMS / "simd/main.cpp")], f"-Werror {flags}")


def scratch_program() -> Program:
    """scratch/main.cpp, which needs nothing but the package's headers."""
    (chooser,) = [
        u for u in SETUP.compile_units([isa_named("scalar")], cuda=False) if u.source.name == "isa.cpp"
    ]
    return Program([chooser._replace(source=PROGRAMS / "scratch/main.cpp")], "-Werror")


def build_programs(
    folder: Path, programs: dict[str, Program], compiler: str | None = COMPILER
) -> dict[str, Path]:
    """Where each program lies, compiled as far as it is not up to date."""
    folder.mkdir(parents=True, exist_ok=True)
    outputs = {name: folder / name for name in programs}
    with open(folder / "lock", "w") as lock:  # for tests that run at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(folder / "build.ninja", "w") as file:
            writer = ninja_syntax.Writer(file, width=10_000)
            command = f"{compiler} {SETUP.FLAGS} -I{ROOT}/csrc $flags -MMD -MF $out.d -c $in -o $out"
            writer.rule("cxx", command, "CXX $out", "$out.d", deps="gcc")
            writer.rule("link", f"{compiler} $flags -pthread -o $out $in", "LINK $out")
            for name, program in programs.items():
                objects = [f"{name}_{unit.name.replace(' ', '_')}.o" for unit in program.units]
                for object_file, unit in zip(objects, program.units, strict=True):
                    flags = {"flags": f"{program.flags} {unit.flags}"}
                    writer.build(object_file, "cxx", str(unit.source), variables=flags)
                writer.build(str(outputs[name]), "link", objects, variables={"flags": program.flags})
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        program_file = shutil.which("ninja", path=ninja.BIN_DIR) or "ninja"
        subprocess.run([program_file, "-C", str(folder), *jobs], check=True)
    return outputs
