"""`predict` runs the frozen network that a checkpoint describes, and the layers where it describes none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import Program, write_checkpoint, write_image, write_image_folders

from lenet_ext.engine.frozen import FrozenNet
from lenet_ext.training.checkpoint import load_checkpoint
from lenet_ext.training.digits import read_digits
from lenet_ext.training.errors import InputError
from lenet_ext.training.predict import Prediction, predict_files

NETWORKS = """
import torch
from torch import nn
import torch.nn.functional as F

def net(in_channels, num_classes):
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.25), nn.Linear(16, num_classes),
    )

class Shared(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3)
        self.second = nn.Conv2d(3, 3, 3, bias=False)
        self.second.weight = self.first.weight
        self.fc = nn.Linear(3, num_classes)

    def features(self, x):
        return self.second(self.first(x)).mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))

class NotStored(Shared):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("mean", torch.full((3,), 0.5), persistent=False)
        self.register_buffer("var", torch.full((3,), 4.0), persistent=False)

    def features(self, x):
        return super().features(F.batch_norm(x, self.mean, self.var))

class StoredOtherwise(Shared):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.fc.register_state_dict_post_hook(self.halve)
        self.fc.register_load_state_dict_pre_hook(self.double)

    @staticmethod
    def halve(module, state, prefix, metadata):
        state[prefix + "weight"] = state[prefix + "weight"] / 2

    @staticmethod
    def double(module, state, prefix, *others):
        state[prefix + "weight"] = state[prefix + "weight"] * 2

class Drawing(Shared):
    def features(self, x):
        return F.dropout(super().features(x), 0.01, training=True)
"""
OPTIONS = (
    "--data",
    "folder",
    "--root",
    "in",
    "--epochs",
    1,
    "--batch-size",
    4,
    "--no-compare",
    "--out",
    "out",
)
CHECKPOINT = Path("out/checkpoint.safetensors")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images with which frozen networks are called."""
    found: list[int] = []
    call = FrozenNet.__call__

    def counted(self: FrozenNet, images: torch.Tensor) -> Any:
        found.append(len(images))
        return call(self, images)

    monkeypatch.setattr(FrozenNet, "__call__", counted)
    return found


def change(path: Path, edit: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> None:
    """Write the checkpoint as another program might, with other metadata or tensors and a right checksum."""
    checkpoint = load_checkpoint(path)
    metadata = asdict(checkpoint.metadata)
    edit(metadata, checkpoint.tensors)
    write_checkpoint(path, metadata, checkpoint.tensors)


def as_older_file(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del metadata["frozen"]


def alike(some: list[Prediction | InputError], others: list[Prediction | InputError]) -> None:
    pairs = list(zip(some, others, strict=True))
    assert pairs
    for one, other in pairs:
        assert isinstance(one, Prediction)
        assert isinstance(other, Prediction)
        assert one.class_name == other.class_name
        assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_digits(program: Program, calls: list[int]) -> None:
    """The same answers as from the layers, in batches of 32."""
    assert program("train", "--data", "digits", "--epochs", 3, "--no-compare", "--out", "out").code == 0
    images = read_digits().test.images[:70, 0].numpy()
    paths = [write_image(Path(f"digits/{number}.png"), image) for number, image in enumerate(images)]
    predictions = predict_files(CHECKPOINT, paths)
    assert calls == [1, 32, 32, 6]  # the first is a trial of what the file describes
    change(CHECKPOINT, as_older_file)
    alike(predictions, predict_files(CHECKPOINT, paths))
    assert len(calls) == 4


@pytest.mark.parametrize("engine", ["layers", "torch"])
def test_layers_have_no_description(program: Program, calls: list[int], engine: str) -> None:
    write_image_folders(Path("in"))
    assert program("train", *OPTIONS, "--engine", engine).code == 0
    assert load_checkpoint(CHECKPOINT).metadata.frozen is None
    assert program("predict", "--checkpoint", CHECKPOINT, "in/test/dog/0.png").code == 0
    assert not calls


@pytest.mark.parametrize(
    ("name", "described"),
    [("net", True), ("Shared", True), ("NotStored", False), ("StoredOtherwise", False), ("Drawing", False)],
)
def test_own_networks(program: Program, calls: list[int], name: str, described: bool) -> None:
    """The same answers with and without a description, which is left out where it could not give them."""
    write_image_folders(Path("in"))
    Path("net.py").write_text(NETWORKS)
    result = program("train", *OPTIONS, "--engine", "fused", "--model", f"net.py:{name}")
    assert result.code == 0, result.err
    assert (load_checkpoint(CHECKPOINT).metadata.frozen is not None) == described
    paths = sorted(Path("in/test").rglob("*.png"))
    predictions = predict_files(CHECKPOINT, paths, trusts_model=True)
    assert calls == ([1, 6] if described else [])
    if name != "Drawing":
        change(CHECKPOINT, as_older_file)
        alike(predictions, predict_files(CHECKPOINT, paths, trusts_model=True))


def test_the_text_of_a_described_network_is_not_run(program: Program) -> None:
    write_image_folders(Path("in"))
    Path("net.py").write_text(NETWORKS)
    assert program("train", *OPTIONS, "--model", "net.py:net").code == 0

    def edit(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        metadata["own_network"]["source"] = "raise SystemExit(99)"

    change(CHECKPOINT, edit)
    predict = ("predict", "--checkpoint", CHECKPOINT, "--trust-model", "in/test/dog/0.png")
    assert program(*predict).code == 0
    change(CHECKPOINT, as_older_file)
    assert "SystemExit: 99" in program.error(*predict)


def test_an_older_checkpoint_is_resumed(program: Program, trained: Path) -> None:
    path = trained / "checkpoint.safetensors"
    change(path, as_older_file)
    assert program("train", "--resume", "--out", trained).code == 0


OTHER: dict[str, Any] = {
    "format": 2,
    "dtype": "float64",
    "tensors": ["conv1.weight"],
    "structure": [],
    "image": [3, 32, -1],
    "names": [None, "import os", None],
    "conditions": ["__import__('os').abort()"],
    "batch_name": "lambda",
    "program": "FrozenNet\nlinear 0 | 90 | | | \nreturn 1",
}


@pytest.mark.parametrize("field", OTHER)
def test_damaged_descriptions(program: Program, trained: Path, field: str) -> None:
    path = trained / "checkpoint.safetensors"
    description = load_checkpoint(path).metadata.frozen
    assert description is not None
    assert description.keys() == OTHER.keys()
    absent = {name: value for name, value in description.items() if name != field}
    for changed in (absent, *({**description, field: other} for other in (OTHER[field], {"a b": [None]}, 3))):

        def edit(metadata: dict[str, Any], tensors: dict[str, torch.Tensor], changed: Any = changed) -> None:
            metadata["frozen"] = changed

        change(path, edit)
        message = program.error("predict", "--checkpoint", path, "data/test/cat/0.png")
        assert message.startswith(f"{path}: describes no network that can be run: ")


def other_classes(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    metadata["class_names"].append("bird")
    metadata["network"]["num_classes"] += 1


def other_size(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    metadata["network"]["image_size"] += 8


def other_output(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    metadata["frozen"]["structure"] = {"list": [{"output": 0}]}


def small_deviation(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    metadata["std"][0] = 1e-300


def absent_tensor(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del tensors["fused/weight/conv1.weight"]


def other_dtype(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["fused/weight/fc2.bias"] = tensors["fused/weight/fc2.bias"].double()


def other_shape(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["fused/weight/fc2.bias"] = tensors["fused/weight/fc2.bias"][:1].clone()


EDITS = (other_classes, other_size, other_output, small_deviation, absent_tensor, other_dtype, other_shape)


@pytest.mark.parametrize("edit", EDITS)
def test_a_description_of_something_else(program: Program, trained: Path, edit: Any) -> None:
    path = trained / "checkpoint.safetensors"
    change(path, edit)
    message = program.error("predict", "--checkpoint", path, "data/test/cat/0.png")
    assert message.startswith(f"{path}: describes no network that can be run: ")
