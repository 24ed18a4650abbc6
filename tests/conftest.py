"""Settings of the whole test suite."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import on_device
import pytest
import torch

# The benchmarks lie there. It comes last, so that an installed package is found before the checkout's.
sys.path.append(str(Path(__file__).parents[1]))

if TYPE_CHECKING:  # it needs the extras
    from training_helpers import Program


def set_hypothesis_up() -> None:
    """The same examples on every run, unless HYPOTHESIS_PROFILE asks for fresh and many ones, or for few."""
    if importlib.util.find_spec("hypothesis") is None:
        return  # test_cuda.py runs on machines that have little but torch
    from hypothesis import HealthCheck, settings

    slow = [HealthCheck.too_slow]
    settings.register_profile(
        "default", derandomize=True, deadline=None, max_examples=150, suppress_health_check=slow
    )
    settings.register_profile("explore", deadline=None, max_examples=2000, suppress_health_check=slow)
    settings.register_profile("thousands", settings.get_profile("default"), max_examples=1000)
    settings.register_profile("few", settings.get_profile("default"), max_examples=40)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


set_hypothesis_up()

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cuda-emulator",
        metavar="LIBRARY",
        help="run the operators by this library of cuda_emulator/build.py",
    )
    parser.addoption("--cuda", action="store_true", help="run the operators on the current GPU")


def pytest_configure(config: pytest.Config) -> None:
    library = config.getoption("--cuda-emulator")
    if library is not None:
        # It registers its operators for the CPU, over those of the package.
        step = importlib.import_module("lenet_ext.engine.train_step")
        step.BoundStep = lambda *state: lambda *batch: None  # which would go past the operators
        torch.ops.load_library(library)
        on_device.cuda_kernels = True
    if config.getoption("--cuda"):
        importlib.import_module("lenet_ext")
        on_device.run_operators_on(torch.device("cuda"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def no_signal_is_ignored() -> Iterator[None]:
    """As a shell makes it for what it starts with `&`, these tests and all that they start included."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGQUIT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts back the number of threads that a test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Program:
    """The program `lenet-ext`, in an empty folder."""
    from training_helpers import Program

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return Program(monkeypatch, capsys)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, two classes told by their brightness, and `run`, a finished run on them."""
    from processes import python
    from training_helpers import write_image_folders

    folder = tmp_path_factory.mktemp("finished")
    write_image_folders(folder / "data")
    options = ["--data", "folder", "--epochs", "10", "--batch-size", "3", "--no-compare", "--out", "run"]
    result = python("-m", "lenet_ext", "train", *options, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def trained(program: Program, finished_run: Path) -> Path:
    """The run's folder, in a copy that the test may spoil."""
    shutil.copytree(finished_run, ".", dirs_exist_ok=True)
    return Path("run")
