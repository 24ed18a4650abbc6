"""The fused engine where it differs on CUDA: indices that only the device sees, limits, the step's graphs.

Run by test_cuda_emulator.py, and on a GPU by `pytest --cuda`.
"""

from __future__ import annotations

from copy import deepcopy

import on_device
import pytest
import torch
from operators import OPERATORS, operators, options
from torch import Tensor

import lenet_ext
from lenet_ext.engine.layers import Conv2d, Layer, Linear, MaxPool2d
from lenet_ext.engine.network import Network

pytestmark = pytest.mark.skipif(not on_device.cuda_kernels, reason="the operators run the CPU's kernels")
LINEAR = Network.chain("TrainStep", (Linear(), (0, 1)))
OPTIONS = options(2, 0.1, 0.9, 0.0, 0.01, True)
NO_INDEX = [4, -1, 2**40, -(2**63)]


def arguments() -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Eight images of three features in four classes; weight and bias; their running sums."""
    torch.manual_seed(0)
    return torch.randn(8, 3), torch.arange(8) % 4, [torch.randn(4, 3), torch.randn(4)], [torch.randn(16)]


def train(
    images: Tensor,
    targets: Tensor,
    order: Tensor | None,
    parameters: list[Tensor],
    state: list[Tensor],
    batch_size: int = 0,
    loss: str = "cross_entropy",
) -> Tensor:
    program = LINEAR.program(f"loss {loss}", "optimizer SGD")
    return operators.network_train(
        images, targets, order, parameters, state, OPTIONS, [], None, program, None, batch_size
    )


@pytest.mark.parametrize("bad", NO_INDEX)
@pytest.mark.parametrize("permuted", [False, True])
def test_step_with_a_bad_target_is_not_taken(bad: int, permuted: bool) -> None:
    """The steps before and after it are; its loss is NaN."""
    images, targets, parameters, state = arguments()
    order = torch.arange(8).flip(0) if permuted else torch.arange(8)
    targets[order[3]] = bad  # in the second of four batches
    expected = deepcopy((parameters, state))
    losses = train(images, targets, order if permuted else None, parameters, state, batch_size=2)
    assert losses.isnan().tolist() == [False, True, False, False]
    for batch in order.split(2):
        if 3 not in order.argsort()[batch]:
            train(images[batch], targets[batch], None, *expected)
    assert all(map(torch.equal, [*parameters, *state], [*expected[0], *expected[1]]))


@pytest.mark.parametrize("bad", [8, *NO_INDEX[1:]])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_step_with_a_bad_order_is_not_taken(bad: int, loss: str) -> None:
    images, targets, parameters, state = arguments()
    expected = deepcopy([*parameters, *state])
    wanted = targets if loss == "cross_entropy" else torch.randn(8, 4)
    result = train(images, wanted, torch.tensor([0, bad, 3]), parameters, state, loss=loss)
    assert result.isnan()
    assert all(map(torch.equal, [*parameters, *state], expected))


@pytest.mark.parametrize("bad", ["output", "target", "unknown target"])
def test_step_without_probabilities_is_not_taken(bad: str) -> None:
    images, _, parameters, state = arguments()
    targets = torch.rand(8, 4)
    parameters[0].zero_()
    parameters[1].fill_(0.5)
    if bad == "output":
        parameters[1][2] = 1.5
    else:
        targets[3, 1] = 1.5 if bad == "target" else float("nan")
    expected = deepcopy([*parameters, *state])
    assert train(images, targets, None, parameters, state, loss="bce").isnan()
    assert all(map(torch.equal, [*parameters, *state], expected))
    parameters[1].fill_(0.5)
    assert train(images, torch.rand(8, 4), None, parameters, state, loss="bce").isfinite()


@pytest.mark.parametrize("loss", ["cross_entropy mean -7 0", "cross_entropy mean -7 0.1", "nll sum -7"])
def test_ignored_targets_beside_a_bad_one(loss: str) -> None:
    images, targets, parameters, state = arguments()
    targets[::2] = -7
    assert train(images, targets, None, parameters, state, loss=loss).isfinite()
    targets[5] = -8
    expected = deepcopy([*parameters, *state])
    assert train(images, targets, None, parameters, state, loss=loss).isnan()
    assert all(map(torch.equal, [*parameters, *state], expected))


def test_cross_entropy_of_large_logits() -> None:
    images, targets, (_, bias), state = arguments()
    weight = torch.zeros(4, 3)
    loss = train(images, targets, None, [weight, bias.fill_(1e8)], state)
    torch.testing.assert_close(loss, torch.tensor(4.0).log())


def test_first_calls_through_the_graphs_are_plain_steps() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    images, targets, _, _ = arguments()
    steps = [lenet_ext.TrainStep(lenet_ext.fuse(m, images), momentum=0.9) for m in (model, deepcopy(model))]
    for lr in (0.1, 0.02):
        for step in steps:
            step.optimizer.param_groups[0]["lr"] = lr
        plain = steps[1]._one(images, targets)
        assert torch.equal(steps[0]._replay(images, targets), plain)
    for ours, theirs in zip(*(step.fused.parameters() for step in steps), strict=True):
        assert torch.equal(ours, theirs)


def chain(*layers: tuple[Layer, tuple[int, ...]]) -> str:
    return Network.chain("FusedNet", *layers).program()


def conv2d(padding: int) -> Conv2d:
    return Conv2d((1, 1), (padding, padding, padding, padding), (1, 1), groups=1)


def test_limits() -> None:
    # A pool alone is a stage of its own.
    pool = (MaxPool2d((1, 1), (1, 1), (0, 0), (1, 1), ceil_mode=False), ())
    with pytest.raises(RuntimeError, match="on CUDA a network may have up to 32 stages, got 33"):
        operators.network(torch.zeros(1, 1, 1, 1), [], chain(*[pool] * 33), None, None)
    assert operators.network(torch.ones(1, 1, 1, 1), [], chain(*[pool] * 32), None, None)[0].item() == 1
    with pytest.raises(RuntimeError, match=f"an image may have up to {2**26} elements in each layer"):
        operators.network(
            torch.zeros(1, 1, 1, 1), [torch.zeros(1, 1, 1, 1)], chain((conv2d(2**14), (0,))), None, None
        )
    weight = torch.zeros(1, 1, 1, 1).expand(2**13, 2**13 + 1, 1, 1)
    pixels = torch.zeros(1, 1, 1, 1).expand(1, 2**13 + 1, 1, 1)
    with pytest.raises(RuntimeError, match=f"the weight of a conv2d may have up to {2**26} elements"):
        operators.network(pixels, [weight], chain((conv2d(0), (0,))), None, None)


def test_what_tells_images_apart_is_refused() -> None:
    """By name, and nothing changes."""
    images, targets, parameters, state = arguments()
    before = deepcopy([*parameters, *state])
    program = LINEAR.program("loss cross_entropy")
    batch = (parameters, [0, 1], None, program, None)
    with pytest.raises(
        RuntimeError, match="TrainStep: gradients of each image are computed on the CPU alone"
    ):
        operators.network_sample_gradients(images, targets, *batch)
    with pytest.raises(
        RuntimeError, match="TrainStep: gradients of each image are computed on the CPU alone"
    ):
        operators.network_clipped_sums(images, targets, None, *batch, 1.0)
    with pytest.raises(RuntimeError, match="network_noisy_update: it runs on the CPU alone"):
        operators.network_noisy_update(
            *(parameters, state, OPTIONS, [0, 1], torch.zeros(16), torch.zeros(16), 1.0, "SGD")
        )
    assert all(map(torch.equal, [*parameters, *state], before))


@pytest.mark.parametrize("name", ["ensemble", "ensemble_train"])
def test_ensembles_run_on_the_cpu_alone(name: str) -> None:
    arguments = deepcopy(OPERATORS[name].example)
    with pytest.raises(RuntimeError, match="an ensemble runs on the CPU alone: move it and its images there"):
        getattr(operators, name)(*arguments)
    images, many = (
        torch.randn(8, 3),
        lenet_ext.fuse_ensemble(torch.nn.Linear(3, 4), torch.randn(2, 3), copies=2),
    )
    step = lenet_ext.TrainStep(many, lr=0.1)
    with torch.no_grad(), pytest.raises(RuntimeError, match="an ensemble runs on the CPU alone"):
        many(images)
    with pytest.raises(RuntimeError, match="an ensemble runs on the CPU alone"):
        step(images, torch.arange(8) % 4)
