"""What `predict` computes, and that it reads no model for it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from training_helpers import Program, write_checkpoint, write_image_folders

from lenet_ext.commands.report import TrainingReport
from lenet_ext.training.checkpoint import load_checkpoint
from lenet_ext.training.learner import LEARNERS
from lenet_ext.training.predict import Prediction, predict_files
from lenet_ext.training.session import train_in_folder


@pytest.mark.parametrize("engine", LEARNERS)
def test_predict_gives_what_the_engine_gave(program: Program, engine: str) -> None:
    """But for rounding: batches have other sizes."""
    write_image_folders(Path("data"))
    options = {"data": "folder", "epochs": 2, "batch_size": 4, "engine": engine, "compare": False}
    run = train_in_folder(Path("out"), options, False, TrainingReport(Console(quiet=True)))
    paths = sorted(Path("data/test").rglob("*.png"))
    predictions = predict_files(Path("out/checkpoint.safetensors"), paths)
    expected = run.learners[0].logits(run.dataset.test.images).softmax(dim=1).max(dim=1)
    results = [one for one in predictions if isinstance(one, Prediction)]
    assert [one.class_name for one in results] == [run.dataset.class_names[i] for i in expected.indices]
    assert [one.probability for one in results] == pytest.approx(expected.values.tolist(), abs=1e-5)


@pytest.mark.parametrize("described", [True, False])
def test_predict_exports_nothing(
    program: Program, trained: Path, monkeypatch: pytest.MonkeyPatch, described: bool
) -> None:
    """It takes seconds, and an interrupt inside torch.export ended in an abort."""
    path = trained / "checkpoint.safetensors"
    if not described:
        checkpoint = load_checkpoint(path)
        write_checkpoint(path, asdict(replace(checkpoint.metadata, frozen=None)), checkpoint.tensors)

    def export(*arguments: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torch.export, "export", export)
    assert program("predict", "--checkpoint", path, "data/test/cat/0.png").code == 0


def test_predict_with_weights_that_are_too_large(program: Program, trained: Path) -> None:
    path = trained / "checkpoint.safetensors"
    checkpoint = load_checkpoint(path)
    tensors = {name: tensor * 1e30 for name, tensor in checkpoint.tensors.items()}
    write_checkpoint(path, asdict(checkpoint.metadata), tensors)
    message = program.error("predict", "--checkpoint", path, "data/test/cat/0.png")
    assert message.startswith("run/checkpoint.safetensors: gives probabilities that are not finite")
