"""Frozen networks that are stored: pickle, torch.save, deepcopy, and safetensors files, whole and damaged."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from capture_helpers import Forward
from networks import NETWORKS, images
from safetensors.torch import load_file, save_file
from test_frozen import assert_alike, example, lenet
from torch import nn

import lenet_ext
from lenet_ext.engine.conditions import check_conditions
from lenet_ext.engine.frozen_file import KEY

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def through_pickle(frozen: Any, path: Path) -> Any:
    return pickle.loads(pickle.dumps(frozen))


def through_torch(frozen: Any, path: Path) -> Any:
    memory = io.BytesIO()
    torch.save(frozen, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=False)


def through_deepcopy(frozen: Any, path: Path) -> Any:
    return copy.deepcopy(frozen)


def through_file(frozen: Any, path: Path) -> Any:
    frozen.save(path / "net.safetensors")
    return lenet_ext.load_frozen(path / "net.safetensors")


WAYS = [through_pickle, through_torch, through_deepcopy, through_file]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(way: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    frozen = lenet_ext.fuse(lenet(dtype), example(dtype=dtype)).freeze()
    x = example(5, dtype)
    again = way(frozen, tmp_path)
    assert_alike(again(x), frozen(x))
    assert_alike(way(again, tmp_path)(x), frozen(x))
    assert repr(again) == repr(frozen)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_all_kinds(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]
    frozen = lenet_ext.fuse(network.build(), images(network, 2).float()).freeze()
    again = through_file(frozen, tmp_path)
    x = images(network, 3).float()
    assert_alike(again(x), frozen(x))


@pytest.mark.parametrize("way", WAYS)
def test_bytes_and_other_image_sizes(way: Any, tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 3, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )
    frozen = lenet_ext.fuse(net, torch.randn(2, 3, 9, 9), mean=[0.1, 0.2, 0.3], std=0.5).freeze()
    again = way(frozen, tmp_path)
    for size in (9, 12, 23):
        x = torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
        assert_alike(again(x), frozen(x))
    with pytest.raises(RuntimeError, match="FrozenNet"):
        again(torch.zeros(2, 3, 2, 2, dtype=torch.uint8))


def test_collections(tmp_path: Path) -> None:
    def forward(n: Any, x: torch.Tensor) -> Any:
        return OrderedDict(a=n.fc(x), b=[None, 2, "text", (n.fc(x).relu(),)])

    frozen = lenet_ext.fuse(Forward(forward, fc=nn.Linear(3, 4)), torch.randn(2, 3)).freeze()
    x = torch.randn(5, 3)
    result = through_file(frozen, tmp_path)(x)
    assert type(result) is OrderedDict
    assert_alike(result, frozen(x))


def test_other_collections_are_refused(tmp_path: Path) -> None:
    Pair = namedtuple("Pair", "a b")
    torch.utils._pytree._register_namedtuple(Pair, serialized_type_name="test_frozen_file.Pair")
    model = Forward(lambda n, x: Pair(n.fc(x), x * 2), fc=nn.Linear(3, 4))
    frozen = lenet_ext.fuse(model, torch.randn(2, 3)).freeze()
    with pytest.raises(RuntimeError, match=r"FrozenNet\.save: the network returns a Pair"):
        frozen.save(tmp_path / "net.safetensors")


def written(tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, torch.Tensor]]:
    frozen = lenet_ext.fuse(lenet(), example()).freeze()
    path = tmp_path / "net.safetensors"
    frozen.save(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return path, json.loads(file.metadata()[KEY]), load_file(path)


DAMAGE: dict[str, Any] = {
    "format": 2,
    "dtype": "int64",
    "tensors": ["0.weight"],
    "structure": {"output": 7},
    "image": [3, -1, 32],
    "names": [None, "import os", None],
    "conditions": ["__import__('os').abort()"],
    "batch_name": "lambda",
    "program": "FrozenNet\nlinear 0 | 90 | | | \nreturn 1",
}


@pytest.mark.parametrize("field", DAMAGE)
def test_damage(field: str, tmp_path: Path) -> None:
    path, description, tensors = written(tmp_path)
    for change in ("other", "missing", "nonsense"):
        changed = dict(description)
        if change == "missing":
            del changed[field]
        else:
            changed[field] = DAMAGE[field] if change == "other" else {"a": [None]}
        save_file(tensors, path, metadata={KEY: json.dumps(changed)})
        with pytest.raises(ValueError, match=r"load_frozen: .* holds no network that can be run"):
            lenet_ext.load_frozen(path)


def test_tensors_of_other_shapes(tmp_path: Path) -> None:
    path, description, tensors = written(tmp_path)
    for name in tensors:
        changed = {**tensors, name: torch.zeros(1, 1)}
        save_file(changed, path, metadata={KEY: json.dumps(description)})
        with pytest.raises(ValueError, match="holds no network that can be run"):
            lenet_ext.load_frozen(path)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(FileNotFoundError):
        lenet_ext.load_frozen(path)
    path.write_bytes(os.urandom(100))
    with pytest.raises(ValueError, match="is no safetensors file"):
        lenet_ext.load_frozen(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"was not written by FrozenNet\.save"):
        lenet_ext.load_frozen(path)


@pytest.mark.parametrize(
    "condition",
    [
        "().__class__",
        "x.__class__",
        "open('f')",
        "[y for y in x]",
        "9**9**9",
        "(lambda: 1)()",
        "'a' * 9",
        "math.pi.real",
    ],
)
def test_conditions_that_are_more_than_arithmetic(condition: str) -> None:
    with pytest.raises(ValueError, match="condition"):
        check_conditions([condition], ["x"])


def test_conditions() -> None:
    check_conditions(
        ["(x >= 2)", "x // 2 + math.floor(x / 3) <= math.inf and not x % 2 == 1", "max(x, 2)**2 > 1"], ["x"]
    )
