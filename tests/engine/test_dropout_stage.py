"""Dropout of the engine: its generator, and that a factor depends on seed, layer, image and element alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from stages import engine_pass, one
from torch import Tensor

from lenet_ext.engine.layers import Activation, Dropout
from lenet_ext.engine.network import Network

Words = NDArray[np.uint64]
WORD = 0xFFFFFFFF


def philox(counter: Sequence[Words | int], key: tuple[int, int]) -> list[Words]:
    """Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011)."""
    c, word, half = [np.asarray(v, dtype=np.uint64) for v in counter], np.uint64(WORD), np.uint64(32)
    low, high = key
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [second >> half ^ c[1] ^ np.uint64(low), second & word,
             first >> half ^ c[3] ^ np.uint64(high), first & word]  # fmt: skip
        low, high = (low + 0x9E3779B9) & WORD, (high + 0xBB67AE85) & WORD
    return c


@pytest.mark.parametrize(
    ("counter", "key", "block"),
    [
        ([0, 0, 0, 0], (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([WORD, WORD, WORD, WORD], (WORD, WORD), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_generator_here_has_the_published_answers(
    counter: Sequence[Words | int], key: tuple[int, int], block: str
) -> None:
    """Those of Random123, the authors' library."""
    assert " ".join(f"{int(word):08x}" for word in philox(counter, key)) == block


def factors(seed: int, layer: int, batch: int, elements: int, p: float) -> Tensor:
    """By which (batch, elements) are multiplied: csrc/cpu/dropout/dropout.h says which word decides."""
    e = np.arange(elements, dtype=np.uint64)[None, :]
    image = np.arange(batch, dtype=np.uint64)[:, None]
    counter: list[Words | int] = [e // 64 * 16 + e % 16 + 0 * image, image + 0 * e, 0, layer]
    words = np.stack(philox(counter, (seed & WORD, seed >> 32)))
    deciding = np.take_along_axis(
        words, np.broadcast_to(e.astype(np.int64) % 64 // 16, words.shape[1:])[None], axis=0
    )[0]
    stays = torch.from_numpy((deciding >= round(p * 2**32)) & (p < 1))
    return stays.double() * (1 / (1 - p) if p < 1 else 0.0)


def random_images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=dtype)


@pytest.mark.parametrize("shape", [(1,), (63,), (65,), (200,), (3, 5, 7), (70, 4, 4), (2, 40)])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors(dtype: torch.dtype, per_channel: bool, shape: tuple[int, ...]) -> None:
    number = 0x1234_5678_9ABC_DEF0
    seed = torch.tensor([number])
    for batch in (1, 70):  # a single tile; many
        x = random_images(batch, *shape, dtype=dtype)
        for p in (0.0, 0.1, 0.5, 0.97, 1.0):
            elements = shape[0] if per_channel else x[0].numel()
            factor = factors(number, 1, batch, elements, p).to(dtype)
            sizes = (batch, shape[0]) + (1,) * (len(shape) - 1) if per_channel else x.shape
            network = Network.chain("Test", (Activation("tanh"), ()), (Dropout(per_channel, p), ()))
            grad = random_images(*x.shape, dtype=dtype)
            passed = engine_pass(network, x, [], [grad], seed)
            y = engine_pass(one(Activation("tanh")), x, [], [grad * factor.reshape(sizes)])
            assert torch.equal(passed.outputs[0], y.outputs[0] * factor.reshape(sizes))
            assert torch.equal(passed.grad_images, y.grad_images)


def test_layers_and_seeds_are_apart() -> None:
    x = torch.ones(40, 100)
    twice = Network.chain("Test", (Dropout(False, 0.5), ()), (Dropout(False, 0.5), ()))
    (output,) = engine_pass(twice, x, seed=torch.tensor([3])).outputs
    assert 0.2 < (output > 0).double().mean() < 0.3  # two that drop the same would leave half
    other = engine_pass(twice, x, seed=torch.tensor([3 + 2**32])).outputs[0]
    assert not torch.equal(output, other)
    assert torch.equal(output, engine_pass(twice, x, seed=torch.tensor([3])).outputs[0])


def test_what_is_not_finite() -> None:
    """As in torch, which multiplies by 0 and does not put a 0 there."""
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 2.0, -2.0]).repeat(40)[None]
    for p in (0.5, 1.0):
        output = engine_pass(one(Dropout(False, p)), x, seed=torch.tensor([1])).outputs[0]
        factor = factors(1, 0, 1, 200, p).float()
        torch.testing.assert_close(output, x * factor, rtol=0, atol=0, equal_nan=True)
    everything = F.dropout(x, 1.0)
    torch.testing.assert_close(output, everything, rtol=0, atol=0, equal_nan=True)


def test_a_seed_is_needed() -> None:
    with pytest.raises(RuntimeError, match="needs a seed"):
        engine_pass(one(Dropout(False, 0.5)), torch.ones(2, 3))
