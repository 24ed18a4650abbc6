"""The noise of private training: what it is drawn from, and when."""

from __future__ import annotations

import copy

import pytest
import torch
from per_sample import batch
from private_steps import NORM, make, same_bits, seeded, weights
from torch import nn


@pytest.mark.parametrize("secure", [False, True])
def test_empty_batch(secure: bool) -> None:
    """Noise alone; there is no loss."""
    step = make(secure_mode=secure)
    before = weights(step)
    loss = step(torch.empty(0, 2, 10, 10, dtype=torch.float64), torch.empty(0, dtype=torch.int64))
    assert loss.isnan()
    for old, new in zip(before, weights(step), strict=True):
        assert not torch.equal(old, new)
        assert (old - new).abs().max() < 0.1 * 0.7 * NORM / 16 * 6


def test_secure_noise() -> None:
    """Normal, of the right size, new at each step, and of the operating system: no seed repeats it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(200, 1000)).double()
    step = make(model, secure_mode=True, noise_multiplier=2.0, expected_batch_size=1, lr=1.0)
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        before = weights(step)[0]
        step(torch.empty(0, 2, 10, 10, dtype=torch.float64), torch.empty(0, dtype=torch.int64))
        drawn.append(((before - weights(step)[0]) / (2.0 * NORM)).flatten())
    first, second = drawn
    count = len(first)
    for noise in drawn:  # each bound is about 5 standard deviations
        assert abs(float(noise.mean())) < 5 / count**0.5
        assert abs(float(noise.var()) - 1) < 5 * (2 / count) ** 0.5
        assert abs(float((noise**4).mean()) - 3) < 5 * (96 / count) ** 0.5
        below = float((noise < 1).double().mean())
        assert abs(below - 0.841345) < 5 * (0.1335 / count) ** 0.5
    assert abs(float((first * second).mean())) < 5 / count**0.5
    assert abs(float((first[1:] * first[:-1]).mean())) < 5 / count**0.5


def test_generators() -> None:
    """That of torch where none is given; steps with the same one are the same."""
    x, targets = batch(9)
    steps = [make() for _ in range(3)] + [make(generator=seeded())]
    for step, seed in zip(steps[:3], (4, 4, 5), strict=True):
        torch.manual_seed(seed)
        step(x, targets)
    state = torch.get_rng_state()
    steps[3](x, targets)
    assert torch.equal(torch.get_rng_state(), state)
    assert same_bits(steps[0], steps[1])
    assert not same_bits(steps[0], steps[2])


def test_a_bad_batch_changes_nothing() -> None:
    """And draws no noise."""
    generator = seeded()
    step = make(generator=generator, momentum=0.9)
    x, targets = batch(9)
    step(x, targets)
    before, state, noise = weights(step), copy.deepcopy(step.state_dict()), generator.get_state()
    bad = targets.clone()
    bad[3] = 5
    with pytest.raises(IndexError, match=r"TrainStep: target 5 at position 3 is out of range \[0, 5\)"):
        step(x, bad)
    with pytest.raises(IndexError, match="TrainStep: target 5 at position 3 is out of range"):
        step.epoch(x, bad, 2)
    with pytest.raises(IndexError, match="TrainStep: permutation 9 at position 1 is out of range"):
        step.epoch(x, targets, 2, torch.tensor([0, 9]))
    with pytest.raises(RuntimeError, match="TrainStep: all parameters must be of one dtype"):
        step(x.float(), targets)
    assert all(map(torch.equal, before, weights(step)))
    torch.testing.assert_close(step.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(generator.get_state(), noise)
