"""What a sweep makes of its members' records: settings, the best one, combinations, pictures."""

from __future__ import annotations

import io
import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lenet_ext.training.dataset import Dataset, Split
from lenet_ext.training.sweep import plots
from lenet_ext.training.sweep.chunk import Chunk, best_of
from lenet_ext.training.sweep.config import AXES, new_sweep, resumed_sweep
from lenet_ext.training.sweep.state import Sweep, values_text


def lists(values: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    return st.lists(values, min_size=1, max_size=4, unique=True)


@given(
    lists(st.floats(1e-6, 10)),
    lists(st.floats(0, 0.99)),
    lists(st.floats(0, 1)),
    st.integers(1, 5),
    st.data(),
)
def test_settings_come_back(
    lr: list[float], momentum: list[float], decay: list[float], seeds: int, data: st.DataObject
) -> None:
    """As texts, and as sweep.json holds them; the members are all combinations, each once."""
    values = dict(zip(AXES, (lr, momentum, decay), strict=True))
    texts = {name: ",".join(map(str, numbers)) for name, numbers in values.items()}
    first = data.draw(st.integers(0, 2**63 - 1 - seeds))
    config = new_sweep({**texts, "seeds": seeds, "seed": first})
    stored = json.loads(json.dumps(config.options()))
    assert new_sweep(stored) == config
    assert resumed_sweep({**texts, "seeds": seeds, "root": "moved"}, stored).members()[-1].root == "moved"
    found = [(one.lr, one.momentum, one.weight_decay, one.seed) for one in config.members()]
    assert found == [
        (a, b, c, seed) for a in lr for b in momentum for c in decay for seed in range(first, first + seeds)
    ]


def record(epoch: int, accuracy: float, loss: float = 1.0) -> dict[str, Any]:
    figures = {"train_loss": loss, "test_accuracy": accuracy, "images_per_second": 1.0, "seconds": 1.0}
    return {"epoch": epoch, **figures}


@pytest.mark.parametrize(
    ("last", "diverged", "best"),
    [
        ([(0.5, 1), (0.7, 2), (0.6, 0)], {}, 1),
        ([(0.5, 1), (0.7, 2), (0.6, 0)], {1: "nan"}, 2),
        ([(0.7, 3), (0.7, 2), (0.7, 2)], {}, 1),  # the lower loss, and then the first
        ([(0.7, 3)], {0: "nan"}, None),
    ],
)
def test_best(last: list[tuple[float, float]], diverged: dict[int, str], best: int | None) -> None:
    histories = [[record(1, 0.99), record(2, accuracy, loss)] for accuracy, loss in last]
    assert best_of(histories, diverged) == best


def sweep_of(epochs: int = 3, diverged: dict[int, str] | None = None, **options: Any) -> Sweep:
    """Of made-up figures: the accuracy grows with the number of the member."""
    config = new_sweep({"epochs": epochs, **options})
    count = len(config.members())
    split = Split(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]))
    sweep = Sweep(config, Dataset(split, split, ["a", "b"]), "", None, count)
    diverged = diverged or {}
    histories = [
        [record(epoch + 1, (member + 1) / (count + 1), math.exp(-epoch)) for epoch in range(epochs)]
        if member not in diverged
        else [record(1, 0.1, 1e30)]
        for member in range(count)
    ]
    sweep.chunks[0] = Chunk(histories, diverged, epochs, True, {})
    return sweep


def test_combinations() -> None:
    sweep = sweep_of(lr="0.1,0.2", seeds=3, diverged={4: "nan", 0: "nan", 1: "nan", 2: "nan"})
    low, high = sweep.combinations()
    assert (low.members, low.diverged, low.accuracy) == ([0, 1, 2], 3, None)
    assert (high.members, high.diverged) == ([3, 4, 5], 1)
    assert high.accuracy == pytest.approx((4 / 7 + 6 / 7) / 2)
    assert values_text(high.values) == "lr 0.2, momentum 0.9, weight decay 0"
    lines = sweep.lines()
    assert [line["epoch"] for line in lines if line["member"] == 4] == [1, 2]
    assert [line.get("diverged") for line in lines if line["member"] == 4] == [None, "nan"]
    assert sum(line["final"] for line in lines) == 6


def test_the_best_is_of_finished_chunks() -> None:
    sweep = sweep_of(lr="0.1,0.2,0.3")
    chunk, sweep.chunk_size = sweep.chunks[0], 2
    sweep.chunks = {
        0: Chunk(chunk.histories[:2], {}, 3, True, {}),
        1: Chunk(chunk.histories[2:], {}, 2, False, {}),
    }
    assert sweep.best() == 1
    assert sweep.pending() == [1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": "0.1,0.2", "momentum": "0,0.9", "weight_decay": "0,0.1", "diverged": {0: "nan", 3: "nan"}},
        {"weight_decay": ",".join(map(str, range(20)))},
        {"momentum": "0,0.5", "weight_decay": ",".join(map(str, range(20)))},
        {"lr": ",".join(str(0.01 * n) for n in range(1, 60)), "seeds": 2, "epochs": 1},
        {"lr": "0.1,0.2", "diverged": {0: "nan", 1: "nan"}},
    ],
)
def test_pictures(options: dict[str, Any]) -> None:
    """Of one cell, of panels, of many, and where networks diverged: something is drawn, without a warning."""
    sweep = sweep_of(**options)
    for draw in (plots.heatmap, plots.curves):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            content = draw(sweep)
        with Image.open(io.BytesIO(content)) as picture:
            assert min(picture.size) > 150
            assert np.asarray(picture.convert("L")).std() > 5
