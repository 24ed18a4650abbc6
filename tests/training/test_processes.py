"""The processes of one run, as torch's variables describe them, and their shares of a batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet_ext.training.augment import augmented
from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.dataset import Outline
from lenet_ext.training.errors import InputError
from lenet_ext.training.needs import check_memory, needed_bytes
from lenet_ext.training.processes import Processes, described


def test_torchs_variables() -> None:
    """Those that make no sense are named; a single process is one by itself."""
    two = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    assert described({}).count == 1
    assert described({"WORLD_SIZE": "2"}).count == 1
    assert described({**two, "WORLD_SIZE": "1", "RANK": "0"}).count == 1
    assert (described(two).rank, described(two).count) == (1, 2)
    here = described({**two, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    assert (here.local_rank, here.on_machine) == (1, 2)
    for changes, text in (
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: wanted a whole number, at least 1"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: wanted a whole number, at least 1"),
        ({"RANK": "2"}, "RANK=2: wanted a whole number, at least 0, less than 2"),
        ({"RANK": "-1"}, "RANK=-1: wanted a whole number, at least 0, less than 2"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2: wanted a whole number, at least 0, less than 2"),
    ):
        with pytest.raises(InputError) as error:
            described({**two, **changes})
        assert str(error.value) == text
    del two["MASTER_PORT"]
    with pytest.raises(InputError, match="MASTER_PORT is not: wanted all, as torchrun does"):
        described(two)


@given(images=st.integers(0, 1000), count=st.integers(1, 20))
def test_shares_cover_a_batch_once(images: int, count: int) -> None:
    shares = [range(images)[Processes(rank, count).share(images)] for rank in range(count)]
    assert [index for share in shares for index in share] == list(range(images))
    assert len(shares[0]) - len(shares[-1]) in (0, 1)
    assert sorted(map(len, shares), reverse=True) == list(map(len, shares))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_changed_as_the_whole(count: int) -> None:
    """Those of several processes, one after another, and some are empty."""
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    parts = []
    for rank in range(count):
        share = Processes(rank, count).share(5)
        drawn = torch.Generator().manual_seed(0)
        parts.append(augmented(images[share], drawn, True, share=share, batch_size=5))
    assert torch.equal(torch.cat(parts), augmented(images, torch.Generator().manual_seed(0), True))


def test_each_process_needs_memory() -> None:
    outline = Outline("photos", 8, 2, ["a", "b"], 3, 600)
    config = TrainingConfig(data="folder", compare=False)
    one, two = (needed_bytes(outline, config, None, processes)[0] for processes in (1, 2))
    assert 1.5 * one < two < 2 * one + needed_bytes(outline, config)[1]
    text = check_memory(outline, config, None, 2)
    assert text is not None
    assert text.startswith("photos: training on 10 images of 600x600 in 2 processes needs about ")
