"""The comparison with Flower is checked and written, in its absence. Never how fast anything is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import lenet_ext
from benchmarks import federated as program
from benchmarks.federated_engines import AfterRound, Federation, run_torch
from lenet_ext.training.dataset import Split

pytest.importorskip("tabulate")
pytest.importorskip("numpy")


@pytest.fixture
def federation() -> Federation:
    torch.manual_seed(0)
    images, labels = torch.randn(40, 1, 16, 16), torch.randint(10, (40,))
    model = lenet_ext.LeNet(in_channels=1, image_size=16, layers=nn)
    clients = [torch.arange(0, 17), torch.arange(17, 20), torch.arange(20, 40)]
    return Federation(model, images, labels, clients, batch_size=8, lr=0.1, rounds=4)


@pytest.fixture
def evaluate(federation: Federation) -> program.Evaluate:
    return program.evaluation(federation.model, Split(federation.images, federation.labels))


def half_done(federation: Federation, after_round: AfterRound) -> None:
    """Which leaves a client out."""
    run_torch(replace(federation, clients=federation.clients[:2]), after_round)


def test_batches_are_those_of_a_client_and_a_round(federation: Federation) -> None:
    first = torch.cat(list(federation.batches(0, 1)))
    assert sorted(first.tolist()) == list(range(17))
    assert [len(batch) for batch in federation.batches(0, 1)] == [8, 8, 1]
    assert torch.equal(first, torch.cat(list(federation.batches(0, 1))))
    assert not torch.equal(first, torch.cat(list(federation.batches(0, 2))))
    assert sorted(torch.cat(list(federation.batches(2, 1))).tolist()) == list(range(20, 40))


def test_accuracy_is_that_of_the_state(federation: Federation, evaluate: program.Evaluate) -> None:
    right = federation.model(federation.images).argmax(1) == federation.labels
    assert evaluate(federation.model.state_dict()) == pytest.approx(right.double().mean().item())


def test_curves_are_written(federation: Federation, evaluate: program.Evaluate, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curves = program.measure(federation, evaluate, run_torch)
    assert [len(curve.accuracies) for curve in curves.values()] == [4, 4, program.EAGER_ROUNDS]
    assert len(curves[program.OURS].steady) == 2 * 3  # two runs, each without its first round
    assert curves[program.OURS].accuracies == curves[program.FLOWER].accuracies
    facts = {"data": "noise", "clients": 3, "images_of_a_client": 13, "batch_size": 8, "lr": 0.1}
    about = {"environment": program.environment(), "packages": {"flwr": "1.0", "ray": "2.0"}}
    program.publish(tmp_path, curves, {**facts, "concentration": 1.0, "cpus": 2}, about)
    text = (tmp_path / "federated.md").read_text()
    assert "flwr 1.0, ray 2.0. 3 clients, each with 13 images of noise" in text
    assert "are at most 0.0000 apart." in text
    assert [f"| {name} " in text for name in curves] == [True] * 3
    assert (tmp_path / "federated.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "federated.json").read_text())
    assert content["curves"][program.FLOWER]["seconds"] == curves[program.FLOWER].seconds
    assert content["settings"]["data"] == "noise"


def test_no_time_for_a_wrong_result(federation: Federation, evaluate: program.Evaluate) -> None:
    with pytest.raises(SystemExit, match="after a round the parameters of Flower, torch eager and lenet_ext"):
        program.measure(federation, evaluate, half_done)


def test_missing_packages_and_wrong_options_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "missing", lambda: ["flwr"])
    with pytest.raises(SystemExit):
        program.main(["--data", "digits"])
    assert "flwr is not installed: pip install -r benchmarks/requirements.txt" in capsys.readouterr().err
    monkeypatch.setattr(program, "missing", list)
    with pytest.raises(SystemExit):
        program.main(["--rounds", "0"])
    assert "--rounds and --cpus must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program.main(["--root", "/nowhere"])
    assert "/nowhere" in capsys.readouterr().err
