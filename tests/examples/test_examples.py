"""The programs in examples/: each runs in its quick form and prints what it should."""

from __future__ import annotations

import math
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import ROOT, python

pytest.importorskip("sklearn")  # which has the digits
pytest.importorskip("matplotlib")

EXAMPLES = ROOT / "examples"
HELPERS = {"accountant.py", "catch.py", "federation.py"}  # which the programs import
# What each prints in its quick form.
PRINTS = {
    "dqn": r"mean return before: [+-]\d\.\d\d\n"
    r"mean return after 5 games: [+-]\d\.\d\d\n"
    r"learning steps per second: \d+ fused, \d+ with native torch\n",
    "ensemble": r"one by one: trained in \d+\.\d\d s\n"
    r"all at once: trained in \d+\.\d\d s\n"
    r"the same weights, bit for bit: True\n"
    r"(member \d: accuracy 0\.\d{3}, calibration error 0\.\d{3}\n){8}"
    r"ensemble: accuracy 0\.\d{3}, calibration error 0\.\d{3}\n",
    "federated": r"(FedAvg, round \d: loss \d\.\d{3}, accuracy 0\.\d{3}, \d\.\d{3} s\n){2}"
    r"(FedProx, mu = 0\.3, round \d: loss \d\.\d{3}, accuracy 0\.\d{3}, \d\.\d{3} s\n){2}",
    "own_network": r"epoch 1: loss of the last batch \d\.\d{4}\n"
    r"test accuracy 0\.[6-9]\d{3}, \d{3} of 364 images\n"
    r"plain torch predicts the same for 364 images, outputs within \d\.\de-0[5-9]\n",
    "private_training": r"10 steps: epsilon 0\.866 at delta 0\.0001, test accuracy 0\.\d{3}\n",
    "transfer_learning": r"digits 0 to 4: test accuracy (0\.9\d{2}|1\.000)\n"
    r"digits 5 to 9, accuracy after \(5, 10, 20, 40\) epochs:\n"
    r"frozen convolutions(  0\.\d{3}){4}\n"
    r"from scratch {7}(  0\.\d{3}){4}\n",
}


def program(name: str, *options: str, folder: Path) -> tuple[int, str, str]:
    finished = python(EXAMPLES / f"{name}.py", *options, cwd=folder, environment={"OMP_NUM_THREADS": "1"})
    return finished.returncode, finished.stdout, finished.stderr


def test_all_examples_are_here() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {f"{name}.py" for name in PRINTS} | HELPERS
    readme = (EXAMPLES / "README.md").read_text()
    assert all(f"`{script}`" in readme for script in scripts)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    """A reader takes one in at a glance."""
    lines = path.read_text().splitlines()
    assert len(lines) <= 60
    assert path.name in HELPERS or f"    python examples/{path.name}" in lines


@pytest.mark.parametrize("name", PRINTS)
def test_runs(name: str, tmp_path: Path) -> None:
    """In an empty folder, into which it writes nothing."""
    status, printed, errors = program(name, "--quick", folder=tmp_path)
    assert (status, errors) == (0, "")
    assert re.fullmatch(PRINTS[name], printed), printed
    assert not list(tmp_path.iterdir())


def test_federated_draws_a_picture(tmp_path: Path) -> None:
    status, printed, errors = program("federated", "--quick", "--picture", "curves.png", folder=tmp_path)
    assert (status, errors) == (0, "")
    assert re.fullmatch(PRINTS["federated"], printed), printed
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PRINTS)
def test_wrong_options(name: str, tmp_path: Path) -> None:
    """Named, before anything is computed."""
    status, printed, errors = program(name, "--quick", "digits", folder=tmp_path)
    assert (status, printed) == (2, "")
    assert errors.endswith("error: unrecognized arguments: digits\n")


@pytest.fixture
def epsilon() -> Callable[[int, float, float, float], float]:
    return runpy.run_path(str(EXAMPLES / "accountant.py"))["epsilon"]


def integrated_epsilon(steps: int, rate: float, noise: float, delta: float) -> float:
    """That of the accountant, with the Rényi divergence of the two densities integrated numerically."""
    z = torch.linspace(-40 * noise, 40 * noise + 70, 400_001, dtype=torch.float64)
    log_without = -(z**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
    # The density with the image over that without it.
    ratio = 1 - rate + rate * torch.exp((2 * z - 1) / (2 * noise**2))
    bounds = []
    for order in range(2, 65):
        moment = torch.trapezoid(torch.exp(log_without + order * torch.log(ratio)), z).item()
        spent = steps * math.log(moment) / (order - 1)
        bounds.append(
            spent + math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1)
        )
    return min(bounds)


SETTINGS = [(150, 0.2, 3.0, 1e-4), (1, 0.01, 1.0, 1e-5), (1000, 0.01, 1.1, 1e-5), (10, 1.0, 5.0, 1e-3)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_epsilon_is_that_of_the_integral(
    epsilon: Callable[[int, float, float, float], float], settings: tuple[int, float, float, float]
) -> None:
    assert epsilon(*settings) == pytest.approx(integrated_epsilon(*settings), rel=1e-9)


@pytest.mark.parametrize("noise", [2.0, 5.0])
def test_epsilon_bounds_the_exact_one(
    epsilon: Callable[[int, float, float, float], float], noise: float
) -> None:
    """Without sampling, 20 steps are one with less noise, whose delta is known (Balle and Wang, 2018)."""
    spent, sigma = epsilon(20, 1.0, noise, 1e-5), noise / math.sqrt(20)

    def below(x: float) -> float:
        return (1 + math.erf(x / math.sqrt(2))) / 2

    def delta(spent: float) -> float:
        return below(1 / (2 * sigma) - spent * sigma) - math.exp(spent) * below(
            -1 / (2 * sigma) - spent * sigma
        )

    assert delta(spent) < 1e-5 < delta(0.8 * spent)  # valid, and not much more than what is spent
