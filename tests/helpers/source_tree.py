"""setup.py in a tree of its own, with stand-ins for the compilers and for torch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from processes import ROOT

# Stands for g++ and nvcc: notes its arguments, makes what -o names, and fails where FAIL_ON is among them.
COMPILER = r"""#!/bin/sh
echo "${0##*/} $*" >> "$LOG"
case "$*" in --version) echo "Cuda compilation tools, release $CUDA_RELEASE, V$CUDA_RELEASE.1"; exit;; esac
case "$*" in *"${FAIL_ON:-nothing}"*) echo "error: cannot" >&2; exit 1;; esac
while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done
exit 0
"""


class Tree:
    """setup.py among empty sources, in a folder with an awkward name, and a PATH of stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree of 'söurces'"
        self.log = folder / "log"
        self.log.touch()
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name in ("sh", "uname"):
            (self.programs / name).symlink_to(str(shutil.which(name)))
        self.stubs = folder / "stubs"
        self.stub_torch('__version__ = "2.13.0"')
        self.write("lenet_ext/__init__.py")
        self.write("lenet_ext/_version.py", '__version__ = "1.2"\n')
        for name in ("module", "ops/relu", "cpu/dispatch/isa", "cpu/dispatch/kernel_table"):
            self.write(f"csrc/{name}.cpp")
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            self.write(name, (ROOT / name).read_text())
        self.environment = {
            "PATH": str(self.programs),
            "LOG": str(self.log),
            "CUDA_RELEASE": "12.8",
            "CUDA_HOME": str(folder / "no cuda"),
            "PYTHONPATH": str(self.stubs),
        }

    def write(self, name: str, text: str = "") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def add_program(self, name: str) -> None:
        (self.programs / name).write_text(COMPILER)
        (self.programs / name).chmod(0o755)

    def stub_torch(self, code: str) -> None:
        (self.stubs / "torch").mkdir(parents=True, exist_ok=True)
        (self.stubs / "torch/__init__.py").write_text(code)

    def build(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "setup.py", "build_ext", "--inplace"],
            cwd=self.root,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def error(self, **environment: str) -> str:
        """The one line that a failing build ends with."""
        finished = self.build(**environment)
        assert finished.returncode == 1, finished.stdout + finished.stderr
        assert "Traceback" not in finished.stderr
        (line,) = [line for line in finished.stderr.splitlines() if line.startswith("lenet_ext: ")]
        return line

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    def compiled(self) -> dict[str, str]:
        """The call that made each object, by the object's name without its folder and `.o`."""
        calls = {found[1]: call for call in self.calls() if (found := re.search(r" -o .*/(\S+)\.o$", call))}
        assert len(calls) == sum(" -c " in call for call in self.calls())
        return calls
