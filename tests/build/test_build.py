"""setup.py: what is compiled how, and the line that says what is amiss; run for real, with stand-ins."""

from __future__ import annotations

import itertools
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cxx_programs import ROOT, SETUP
from source_tree import Tree

ISAS = {"x86_64": ["scalar", "avx2", "avx512"], "aarch64": ["scalar", "neon"]}.get(
    platform.machine(), ["scalar"]
)
TEMPLATES = {"scalar": "Scalar1", "avx2": "Avx2", "avx512": "Avx512", "neon": "Neon"}


def kernel_objects(*isas: str) -> list[str]:
    return [
        f"cpu_dispatch_kernel_table.cpp_{isa}_{compute}" for isa in isas for compute in ("float", "double")
    ]


def test_flags_of_an_instruction_set_stay_with_its_objects(tree: Tree) -> None:
    finished = tree.build()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert list((tree.root / "lenet_ext").glob("_C*.so"))
    compiled = tree.compiled()
    general = {"module.cpp", "ops_relu.cpp", "cpu_dispatch_isa.cpp"}
    assert set(compiled) == {*general, *kernel_objects(*ISAS)}
    for name, call in compiled.items():
        assert ("-mavx512f" in call) == ("_avx512_" in name)
        assert ("-mavx2" in call) == ("_avx2_" in name or "_avx512_" in name)
        assert "-std=c++20" in call


def test_kernels_are_compiled_for_each_instruction_set_and_compute_type(tree: Tree) -> None:
    assert tree.build().returncode == 0
    compiled = tree.compiled()
    for isa, compute in itertools.product(ISAS, ("float", "double")):
        call = compiled[f"cpu_dispatch_kernel_table.cpp_{isa}_{compute}"]
        assert f"-DLENET_EXT_SIMD={TEMPLATES[isa]} " in call
        assert f'-DLENET_EXT_SIMD_HEADER="cpu/simd/{isa}.h" ' in call
        assert f"-DLENET_EXT_COMPUTE={compute} " in call
    # The fastest is the last: csrc/cpu/dispatch/isa.cpp takes the last that the CPU has.
    sets = " ".join(f"X({isa}, {TEMPLATES[isa]})" for isa in ISAS)
    assert f"-DLENET_EXT_ISAS(X)={sets} " in compiled["cpu_dispatch_isa.cpp"]


def test_link_order_puts_what_every_cpu_can_run_first(tree: Tree) -> None:
    assert tree.build().returncode == 0
    (link,) = [call for call in tree.calls() if "-shared" in call]
    names = re.findall(r"(\S+)\.o\b", link.split(" -o ")[1])
    assert [name.rpartition("/")[2] for name in names][-len(kernel_objects(*ISAS)) :] == kernel_objects(*ISAS)


@pytest.mark.parametrize("wanted", ["scalar", "{fastest};scalar", " scalar, {fastest} "])
def test_chosen_instruction_sets_alone_are_built(tree: Tree, wanted: str) -> None:
    assert tree.build(LENET_EXT_ISAS=wanted.format(fastest=ISAS[-1])).returncode == 0
    chosen = [isa for isa in ISAS if isa == "scalar" or (isa == ISAS[-1] and "fastest" in wanted)]
    compiled = tree.compiled()
    assert {name for name in compiled if "kernel_table" in name} == set(kernel_objects(*chosen))
    sets = " ".join(f"X({isa}, {TEMPLATES[isa]})" for isa in chosen)
    assert f"-DLENET_EXT_ISAS(X)={sets} " in compiled["cpu_dispatch_isa.cpp"]


def test_unknown_instruction_set(tree: Tree) -> None:
    assert f"LENET_EXT_ISAS names 'sse9', there are {', '.join(ISAS)}" in tree.error(
        LENET_EXT_ISAS="scalar,sse9"
    )


@pytest.mark.parametrize(
    ("machine", "isas"),
    [("AMD64", ["scalar", "avx2", "avx512"]), ("arm64", ["scalar", "neon"]), ("riscv64", ["scalar"])],
)
def test_instruction_sets_of_an_architecture(
    monkeypatch: pytest.MonkeyPatch, machine: str, isas: list[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.delenv("LENET_EXT_ISAS", raising=False)
    assert [isa.name for isa in SETUP.isas_to_build()] == isas


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


def test_the_locale_makes_no_difference(tree: Tree) -> None:
    finished = tree.build(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert tree.compiled()


@pytest.fixture
def dollars(tmp_path: Path) -> Tree:
    (tmp_path / "$US $ $$ 5").mkdir()
    tree = Tree(tmp_path / "$US $ $$ 5")
    tree.add_program("g++")
    return tree


def test_dollars_in_the_path(dollars: Tree) -> None:
    finished = dollars.build()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert list((dollars.root / "lenet_ext").glob("_C*.so"))
    assert all(f"-I{dollars.root}/csrc" in call for call in dollars.compiled().values())


def test_nvcc_takes_no_dollars_in_paths(dollars: Tree) -> None:
    dollars.write("csrc/cuda/relu.cu")
    dollars.add_program("nvcc")
    assert "nvcc compiles nothing in a folder with $" in dollars.error(LENET_EXT_CUDA="1")
    finished = dollars.build()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "building without CUDA: nvcc compiles nothing in a folder with $" in finished.stdout


def test_dollars_of_the_environment_are_the_shells(tree: Tree) -> None:
    finished = tree.build(CXXFLAGS="-DA=$HOME", HOME="here")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert all(" -DA=here " in call for call in tree.compiled().values())


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_source_distribution_holds_everything(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("this is no checkout")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (listed,) = tmp_path.glob("*/SOURCES.txt")
    assert set(tracked.stdout.split()) - set(listed.read_text().splitlines()) == {".gitignore"}


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
        tree.write("csrc/cuda/kernel_table.cpp")
        tree.add_program("nvcc")
        return tree

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            ("7.5;9.0+PTX", ["sm_75", "sm_90", "compute_90"]),
            ("", ["sm_80", "sm_90", "compute_90"]),
            (" ", ["sm_80", "sm_90", "compute_90"]),
            ("8.6;", ["sm_86"]),
            ("9.0a, 8.0", ["sm_90a", "sm_80"]),
            ("Ampere", ["sm_80", "sm_86", "compute_86"]),
            ("Hopper+PTX 9.0+PTX", ["sm_90", "compute_90"]),
            ("Ampere+Tegra+PTX", ["sm_87", "compute_87"]),
        ],
    )
    def test_architectures(self, tree: Tree, wanted: str, expected: list[str]) -> None:
        finished = tree.build(TORCH_CUDA_ARCH_LIST=wanted)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        (call,) = [call for call in tree.calls() if call.startswith("nvcc") and " -c " in call]
        assert re.findall(r",code=(\w+)", call) == expected
        (link,) = [call for call in tree.calls() if "-shared" in call]
        assert "-cudart static" in link
        assert {"cuda_relu.cu", "cuda_kernel_table.cpp"} <= set(tree.compiled())

    @pytest.mark.parametrize("name", ["Hooper", "sm_90", "90", "+PTX", "9.0+PTX+PTX", "8.0-9.0"])
    def test_unknown_architecture(self, tree: Tree, name: str) -> None:
        message = tree.error(TORCH_CUDA_ARCH_LIST=f"8.0 {name}")
        assert f"TORCH_CUDA_ARCH_LIST names {name!r}" in message
        assert "9.0+PTX" in message
        assert "Hopper" in message

    def test_nvcc_is_given_the_compiler_alone(self, tree: Tree) -> None:
        tree.add_program("ccache")
        finished = tree.build(CXX="ccache g++ -m64")
        assert finished.returncode == 0, finished.stdout + finished.stderr
        calls = [call for call in tree.calls() if call.startswith("nvcc") and "--version" not in call]
        assert len(calls) == 2  # compile and link
        assert all(call.startswith("nvcc -ccbin=g++ -Xcompiler=-m64 ") for call in calls)
        assert tree.compiled()["ops_relu.cpp"].startswith("ccache g++ -m64 ")

    def test_is_left_out_on_request(self, tree: Tree) -> None:
        assert tree.build(LENET_EXT_CUDA="0").returncode == 0
        assert not any(call.startswith("nvcc") for call in tree.calls())
        assert not any(name.startswith("cuda_") for name in tree.compiled())

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
