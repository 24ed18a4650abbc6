"""The fused engine where it differs on CUDA: indices that only the device sees, limits, the step's graphs.

Run by test_cuda_emulator.py, and on a GPU by `pytest --cuda`.
"""

from __future__ import annotations

from copy import deepcopy

import on_device
import pytest
import torch
from torch import Tensor

import lenet_ext

pytestmark = pytest.mark.skipif(not on_device.cuda_kernels, reason="the operators run the CPU's kernels")
operators = torch.ops.lenet_ext
LINEAR = [2, 1, 0, 0, 0]
OPTIONS = (0.1, 0.9, 0.01, True, 0)  # from the learning rate on
NO_INDEX = [4, -1, 2**40, -(2**63)]


def arguments() -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Eight images of three features in four classes; weight, bias and their running sums."""
    torch.manual_seed(0)
    return torch.randn(8, 3), torch.arange(8) % 4, [torch.randn(4, 3), torch.randn(4)], torch.randn(16)


@pytest.mark.parametrize("bad", NO_INDEX)
@pytest.mark.parametrize("permuted", [False, True])
def test_step_with_a_bad_target_is_not_taken(bad: int, permuted: bool) -> None:
    """The steps before and after it are; its loss is NaN."""
    images, targets, parameters, buffers = arguments()
    order = torch.arange(8).flip(0) if permuted else torch.arange(8)
    targets[order[3]] = bad  # in the second of four batches
    expected = deepcopy((parameters, buffers))
    losses = operators.net_train(
        images, targets, order if permuted else None, parameters, buffers, LINEAR, None, 2, *OPTIONS
    )
    assert losses.isnan().tolist() == [False, True, False, False]
    for batch in order.split(2):
        if 3 not in order.argsort()[batch]:
            operators.net_train(images[batch], targets[batch], None, *expected, LINEAR, None, 0, *OPTIONS)
    assert all(map(torch.equal, [*parameters, buffers], [*expected[0], expected[1]]))


@pytest.mark.parametrize("bad", [8, *NO_INDEX[1:]])
@pytest.mark.parametrize("loss", [0, 1])
def test_step_with_a_bad_order_is_not_taken(bad: int, loss: int) -> None:
    images, targets, parameters, buffers = arguments()
    expected = deepcopy([*parameters, buffers])
    wanted = targets if loss == 0 else torch.randn(8, 4)
    order = torch.tensor([0, bad, 3])
    result = operators.net_train(
        images, wanted, order, parameters, buffers, LINEAR, None, 0, *OPTIONS[:-1], loss
    )
    assert result.isnan()
    assert all(map(torch.equal, [*parameters, buffers], expected))


def test_rate_in_a_tensor() -> None:
    images, targets, parameters, buffers = arguments()
    expected = deepcopy((parameters, buffers))
    call = (images, targets, None)
    operators.net_train(*call, *expected, LINEAR, None, 0, *OPTIONS)
    lr = torch.tensor(OPTIONS[0], dtype=torch.float64)
    operators.net_train(*call, parameters, buffers, LINEAR, None, 0, 77.0, *OPTIONS[1:], device_lr=lr)
    assert all(map(torch.equal, [*parameters, buffers], [*expected[0], expected[1]]))
    for bad in (lr.float(), torch.zeros(2, dtype=torch.float64)):
        with pytest.raises(RuntimeError, match="device_lr must be one float64 number"):
            operators.net_train(*call, parameters, buffers, LINEAR, None, 0, *OPTIONS, device_lr=bad)


def test_first_calls_through_the_graphs_are_plain_steps() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    images, targets, _, _ = arguments()
    steps = [lenet_ext.TrainStep(lenet_ext.fuse(m, images), momentum=0.9) for m in (model, deepcopy(model))]
    for lr in (0.1, 0.02):
        for step in steps:
            step.lr = lr
        assert torch.equal(steps[0]._replay(images, targets), steps[1]._train(images, targets, None, 0))
    for ours, plain in zip(*(step.fused.parameters() for step in steps), strict=True):
        assert torch.equal(ours, plain)


def test_limits() -> None:
    relu = [0, 0, 1, 0, 0]
    with pytest.raises(RuntimeError, match="on CUDA a network may have up to 32 stages, got 33"):
        operators.net(torch.zeros(1, 2), [], relu * 33, None)
    assert operators.net(torch.ones(1, 2), [], relu * 32, None).tolist() == [[1, 1]]
    padded = [1, 0, 0, 0, 0, 1, 1, 2**14, 2**14, 2**14, 2**14, 1, 1, 1]
    with pytest.raises(RuntimeError, match=f"an image may have up to {2**26} elements in each layer"):
        operators.net(torch.zeros(1, 1, 1, 1), [torch.zeros(1, 1, 1, 1)], padded, None)
    weight = torch.zeros(1, 1, 1, 1).expand(2**13, 2**13 + 1, 1, 1)
    pixels = torch.zeros(1, 1, 1, 1).expand(1, 2**13 + 1, 1, 1)
    point = [1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1]
    with pytest.raises(RuntimeError, match=f"the weight of a conv2d may have up to {2**26} elements"):
        operators.net(pixels, [weight], point, None)
