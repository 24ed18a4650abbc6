"""`make neon`: the wrappers and all kernels for aarch64, cross-compiled and run under QEMU.

Run with tests/helpers in PYTHONPATH. Without a cross-compiler or QEMU it says so, and nothing fails.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys

from cxx_programs import ROOT, SETUP, build_programs, kernel_program, simd_program

COMPILER = "aarch64-linux-gnu-g++"
STATIC = "-static"  # so that QEMU needs no libraries of the other architecture


def main() -> int:
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if emulator is None:
        print("make neon: skipped, qemu-aarch64 was not found (Debian: apt install qemu-user-static)")
        return 0
    if shutil.which(COMPILER) is None:
        print(f"make neon: skipped, {COMPILER} was not found (Debian: apt install g++-aarch64-linux-gnu)")
        return 0
    isas = [isa.name for isa in SETUP.ISAS["aarch64"]]
    programs = {"kernels": kernel_program(isas, STATIC)}
    for isa, compute in itertools.product(isas, SETUP.COMPUTE_TYPES):
        programs[f"wrappers_{isa}_{compute}"] = simd_program(isa, compute, STATIC)
    failed = []
    for name, program in build_programs(ROOT / "build/neon", programs, COMPILER).items():
        print(f"== {name}", flush=True)
        if subprocess.run([emulator, program], check=False).returncode != 0:
            failed.append(name)
    print(f"make neon: {', '.join(failed)} failed" if failed else "make neon: all passed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
