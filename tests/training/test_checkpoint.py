"""Checkpoints: exact, verified, and never half written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from training_helpers import random_pixels

from lenet_ext.training.checkpoint import load_checkpoint, restore_learners, restore_weights, save_checkpoint
from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.data import Normalization
from lenet_ext.training.dataset import Dataset, Split
from lenet_ext.training.errors import InputError
from lenet_ext.training.files import locked, write_atomically
from lenet_ext.training.learner import LEARNERS, optimizer_state
from lenet_ext.training.loop import Run
from lenet_ext.training.network import build_network, network_of


def make_run(momentum: float = 0.9, seed: int = 0) -> Run:
    """A run of a learner of each kind after one epoch of one step; the seed decides its weights."""
    torch.manual_seed(seed)
    images = torch.from_numpy(random_pixels(0, 6, 1, 16, 16))
    split = Split(images, torch.tensor([0, 1, 2] * 2))
    dataset = Dataset(split, split, ["a", "b", "ü"])
    config = TrainingConfig(momentum=momentum, batch_size=6, epochs=3, seed=seed)
    normalize = Normalization.of(images)
    learners = [
        learner(engine, network_of(dataset), config, normalize) for engine, learner in LEARNERS.items()
    ]
    for learner in learners:
        learner.step(images, split.labels, learning_rate=0.1)
    figures = {"train_loss": 1.1, "test_accuracy": 0.5, "images_per_second": 9.5, "seconds": 2}
    return Run(config, dataset, normalize, learners, [{"epoch": 1, **figures, "torch": figures}])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, make_run(), data_sha256="abc")
    return path


def state(run: Run) -> list[torch.Tensor]:
    """All weights and momenta."""
    tensors = []
    for learner in run.learners:
        tensors += [parameter.detach() for parameter in learner.model.parameters()]
        tensors += [
            tensor
            for one in optimizer_state(learner.model, learner.optimizer).values()
            for tensor in one.values()
        ]
    return tensors


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_everything_comes_back_bitwise(tmp_path: Path, momentum: float) -> None:
    run, other = make_run(momentum), make_run(momentum, seed=1)
    assert len(state(run)) == (60 if momentum else 30)
    save_checkpoint(tmp_path / "c", run, data_sha256="abc")
    checkpoint = load_checkpoint(tmp_path / "c")
    restore_learners(checkpoint, other.learners)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(state(run), state(other), strict=True))
    metadata = checkpoint.metadata
    assert TrainingConfig(**metadata.config) == run.config
    assert metadata.network == {"in_channels": 1, "num_classes": 3, "image_size": 16}
    assert (metadata.mean, metadata.std) == (run.normalize.mean, run.normalize.std)
    assert (metadata.epoch, metadata.step, metadata.history) == (1, 1, run.history)
    assert (metadata.class_names, metadata.data_sha256) == (["a", "b", "ü"], "abc")


def test_a_restored_learner_takes_the_same_next_step(path: Path) -> None:
    """Momentum included: without it the second step would differ."""

    def second_step(run: Run) -> list[torch.Tensor]:
        for learner in run.learners:
            learner.step(*batch, learning_rate=0.1)
        return state(run)

    run, restored = make_run(), make_run(seed=1)
    batch = run.dataset.train.images, run.dataset.train.labels
    restore_learners(load_checkpoint(path), restored.learners)
    assert all(map(torch.equal, second_step(run), second_step(restored)))


def test_every_damaged_byte_is_noticed(path: Path) -> None:
    """Each byte of the header's beginning and end, and some of every tensor."""
    content = path.read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    positions = {*range(200), *range(header_end - 200, header_end + 200), *range(0, len(content), 4999)}
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=str(path)):
            load_checkpoint(path)
    path.write_bytes(content)
    load_checkpoint(path)


def test_a_changed_setting_is_noticed(path: Path) -> None:
    """The checksum covers the metadata too."""
    content = path.read_bytes()
    assert content.count(b'\\"lr\\": 0.02') == 1
    path.write_bytes(content.replace(b'\\"lr\\": 0.02', b'\\"lr\\": 0.03'))
    with pytest.raises(InputError, match="corrupt: the content does not match its SHA-256 checksum"):
        load_checkpoint(path)


@pytest.mark.parametrize("length", [0, 4, 8, 100, 5000, -1])
def test_truncated(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        InputError, match=r"truncated or corrupt, or not a safetensors file|corrupt: the content"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize("metadata", [None, {"other": "1"}, {"lenet_ext": "{"}, {"lenet_ext": "[]"}])
def test_foreign_safetensors(path: Path, metadata: dict[str, str] | None) -> None:
    path.write_bytes(save({"weight": torch.zeros(3)}, metadata))
    with pytest.raises(InputError, match="a safetensors file, but not a checkpoint of lenet-ext"):
        load_checkpoint(path)


def test_other_format(path: Path) -> None:
    path.write_bytes(save({"weight": torch.zeros(3)}, {"lenet_ext": json.dumps({"format": 99})}))
    with pytest.raises(InputError, match="format 99, this version reads format 3"):
        load_checkpoint(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: cannot be read: No such file"):
        load_checkpoint(tmp_path / "nowhere")


def test_another_network(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    model = build_network({"in_channels": 3, "num_classes": 3, "image_size": 16}, "torch")
    wanted = r"another network: conv1.weight is \(6, 1, 5, 5\) float32, here it is \(6, 3, 5, 5\) float32"
    with pytest.raises(InputError, match=wanted):
        restore_weights(checkpoint, model, "torch")
    with pytest.raises(InputError, match=r"another network: 0\.bias is absent, here it is \(2,\)"):
        restore_weights(checkpoint, torch.nn.Sequential(torch.nn.Linear(2, 2)), "elsewhere")


def test_momenta_of_another_network(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    checkpoint.tensors["torch/optimizer/momentum_buffer/conv1.weight"] = torch.zeros(6, 1, 3, 3)
    learners = [learner for learner in make_run().learners if learner.name == "torch"]
    with pytest.raises(
        InputError, match=r"conv1.weight is \(6, 1, 3, 3\) float32, here it is \(6, 1, 5, 5\)"
    ):
        restore_learners(checkpoint, learners)
    del checkpoint.tensors["torch/optimizer/momentum_buffer/conv1.weight"]
    with pytest.raises(InputError, match=r"conv1.weight is absent"):
        restore_learners(checkpoint, learners)


def test_a_failing_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match="file: cannot be written: No space left on device"):
        write_atomically(path, b"new")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"file": b"old"}


def test_a_leftover_temporary_file_is_harmless(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"half of something long")
    write_atomically(tmp_path / "file", b"new")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"file": b"new"}


def test_one_run_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another run is writing"), locked(tmp_path):
        pass
    with locked(tmp_path):  # free again
        pass
