"""setup.py and the prerequisites of `make`: what is compiled how, and the line that says what is amiss.

setup.py is run for real, on a copy of its own, with stand-ins for the compilers and for torch.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Stands for g++ and nvcc: notes its arguments, makes what -o names, and fails where FAIL_ON is among them.
COMPILER = r"""#!/bin/sh
echo "${0##*/} $*" >> "$LOG"
case "$*" in --version) echo "Cuda compilation tools, release $CUDA_RELEASE, V$CUDA_RELEASE.1"; exit;; esac
case "$*" in *"${FAIL_ON:-nothing}"*) echo "error: cannot" >&2; exit 1;; esac
while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done
exit 0
"""
KNOWN_ISAS = {"x86_64": ["scalar", "avx2", "avx512"], "aarch64": ["scalar", "neon"]}
pytestmark = pytest.mark.skipif(
    platform.machine() not in KNOWN_ISAS, reason="setup.py builds the scalar kernels alone here"
)


class Tree:
    """setup.py among empty sources, in a folder whose name has a space, and a PATH of stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "source tree"
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
        for name in (
            "module",
            "ops/relu",
            "cpu/dispatch/isa",
            *(f"cpu/dispatch/{name}" for name in self.isa_files()),
        ):
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

    @staticmethod
    def isas() -> list[str]:
        return KNOWN_ISAS[platform.machine()]

    @classmethod
    def isa_files(cls) -> list[str]:
        return [f"isa_{isa}{part}" for isa in cls.isas() for part in ("", "_double")]

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


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.add_program("g++")
    return tree


def test_flags_of_an_instruction_set_stay_with_its_files(tree: Tree) -> None:
    finished = tree.build()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert list((tree.root / "lenet_ext").glob("_C*.so"))
    compiled = {found[1]: call for call in tree.calls() if (found := re.search(r"(\w+)\.cpp'? -o", call))}
    assert set(compiled) == {"module", "relu", "isa", *tree.isa_files()}
    for name, call in compiled.items():
        assert ("-mavx512f" in call) == name.startswith("isa_avx512")
        assert ("-mavx2" in call) == name.startswith(("isa_avx2", "isa_avx512"))
        assert "-std=c++20" in call


def test_link_order_puts_what_every_cpu_can_run_first(tree: Tree) -> None:
    assert tree.build().returncode == 0
    (link,) = [call for call in tree.calls() if "-shared" in call]
    names = re.findall(r"(\w+)\.cpp\.o", link)
    assert names[-len(tree.isa_files()) :] == [f"cpu_dispatch_{name}" for name in tree.isa_files()]


def test_compiler_is_missing(tree: Tree) -> None:
    (tree.programs / "g++").unlink()
    message = tree.error()
    assert "no C++ compiler found" in message
    assert "install g++" in message


def test_compiler_of_cxx_is_missing(tree: Tree) -> None:
    assert "at CXX=g++-99" in tree.error(CXX="g++-99")


def test_compiler_is_too_old(tree: Tree) -> None:
    assert "g++ is too old" in tree.error(FAIL_ON="-fsyntax-only")


def test_compiler_fails(tree: Tree) -> None:
    assert "the compiler failed" in tree.error(FAIL_ON="relu.cpp")


def test_torch_is_missing(tree: Tree) -> None:
    tree.stub_torch("raise ImportError")
    message = tree.error()
    assert "torch is not installed" in message
    assert "pip install 'torch>=2.10'" in message


@pytest.mark.parametrize("version", ["1.13.1+cpu", "2.9.1"])
def test_torch_is_too_old(tree: Tree, version: str) -> None:
    tree.stub_torch(f"__version__ = {version!r}")
    message = tree.error()
    assert f"torch {version} is too old" in message
    assert "pip install 'torch>=2.10'" in message


class TestCuda:
    @pytest.fixture
    def tree(self, tree: Tree) -> Tree:
        tree.write("csrc/cuda/relu.cu")
        tree.add_program("nvcc")
        return tree

    def test_architectures(self, tree: Tree) -> None:
        finished = tree.build(TORCH_CUDA_ARCH_LIST="7.5;9.0+PTX")
        assert finished.returncode == 0, finished.stdout + finished.stderr
        (call,) = [call for call in tree.calls() if call.startswith("nvcc") and " -c " in call]
        assert re.findall(r",code=(\w+)", call) == ["sm_75", "sm_90", "compute_90"]
        (link,) = [call for call in tree.calls() if "-shared" in call]
        assert "-cudart static" in link

    def test_is_left_out_on_request(self, tree: Tree) -> None:
        assert tree.build(LENET_EXT_CUDA="0").returncode == 0
        assert not any(call.startswith("nvcc") for call in tree.calls())

    def test_is_left_out_where_nvcc_does_not_fit(self, tree: Tree) -> None:
        finished = tree.build(CUDA_RELEASE="11.8")
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert "building without CUDA" in finished.stdout
        assert "is CUDA 11.8, 12.4 or newer is needed" in finished.stdout
        assert not any("relu.cu" in call for call in tree.calls())

    def test_nvcc_does_not_fit(self, tree: Tree) -> None:
        message = tree.error(LENET_EXT_CUDA="1", CUDA_RELEASE="11.8")
        assert "LENET_EXT_CUDA=1" in message
        assert "is CUDA 11.8, 12.4 or newer is needed" in message

    def test_nvcc_is_broken(self, tree: Tree) -> None:
        message = tree.error(LENET_EXT_CUDA="1", CUDA_RELEASE="")
        assert "nvcc --version names no release" in message

    def test_nvcc_is_missing(self, tree: Tree) -> None:
        (tree.programs / "nvcc").unlink()
        assert "nvcc was not found" in tree.error(LENET_EXT_CUDA="1")

    def test_bad_choice(self, tree: Tree) -> None:
        assert "LENET_EXT_CUDA must be 0 or 1, got 'yes'" in tree.error(LENET_EXT_CUDA="yes")


class TestPrerequisites:
    """scripts/check_prerequisites.sh."""

    def check(self, tree: Tree, python: str = "python3", **environment: str) -> tuple[int, str]:
        finished = subprocess.run(
            ["/bin/sh", ROOT / "scripts/check_prerequisites.sh", python],
            env=tree.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return finished.returncode, finished.stderr

    def python_that_fails_on(self, tree: Tree, word: str) -> None:
        path = tree.programs / "python3"
        path.write_text(
            f'#!/bin/sh\ncase "$*" in --version) echo Python 3.9.2;; *{word}*) echo no >&2; exit 1;; esac\n'
        )
        path.chmod(0o755)

    def test_all_there(self, tree: Tree) -> None:
        assert self.check(tree, sys.executable) == (0, "")

    def test_python_is_missing(self, tree: Tree) -> None:
        code, message = self.check(tree)
        assert code == 1
        assert "python3 was not found: install Python 3.10" in message

    @pytest.mark.parametrize(
        ("word", "expected"),
        [
            ("version_info", "Python 3.9.2 is too old: install Python 3.10"),
            ("ensurepip", "apt install python3-venv"),
            ("Python.h", "apt install python3-dev"),
        ],
    )
    def test_python_does_not_fit(self, tree: Tree, word: str, expected: str) -> None:
        self.python_that_fails_on(tree, word)
        code, message = self.check(tree)
        assert code == 1
        assert expected in message

    def test_compiler_is_missing(self, tree: Tree) -> None:
        (tree.programs / "g++").unlink()
        code, message = self.check(tree, sys.executable)
        assert code == 1
        assert message.startswith("lenet_ext: no C++ compiler was found: install g++ 12")

    def test_compiler_of_cxx_is_missing(self, tree: Tree) -> None:
        code, message = self.check(tree, sys.executable, CXX="g++-99")
        assert code == 1
        assert "at CXX=g++-99" in message
