"""What TrainStep refuses: an error of the right kind, and nothing is changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_train_step import NESTEROV, data, fuse, make, network, weights
from torch import Tensor, nn

import lenet_ext
from lenet_ext import TrainStep

IMAGES, LABELS = data(6, "cross_entropy", torch.float32)
ORDER = torch.tensor([3, 0, 5])


def with_label(value: int) -> Tensor:
    labels = LABELS.clone()
    labels[4] = value
    return labels


def unchanged(
    step: TrainStep, error: type[Exception], message: str | None, call: Callable[[], object]
) -> None:
    step(IMAGES, LABELS)
    before = copy.deepcopy((weights(step), step.state_dict()))
    with pytest.raises(error, match=message):
        call()
    torch.testing.assert_close((weights(step), step.state_dict()), before, rtol=0, atol=0)


WRONG: dict[str, tuple[Tensor, Any, str | None]] = {
    "int32 labels": (IMAGES, LABELS.int(), "targets must be int64 with 1 dimension, got Int"),
    "float labels": (IMAGES, LABELS.float(), "targets must be int64"),
    "2-D labels": (IMAGES, LABELS[:, None], "targets must be int64 with 1 dimension"),
    "too few labels": (IMAGES, LABELS[:5], r"targets must have the sizes \[6\], got \[5\]"),
    "too many labels": (IMAGES[:5], LABELS, r"targets must have the sizes \[5\], got \[6\]"),
    "float64 images": (
        IMAGES.double(),
        LABELS,
        "of one dtype, that of the input .*, Double; got Float|like 0.weight",
    ),
    "bytes": (IMAGES.to(torch.uint8), LABELS, "got Byte|uint8 images need mean and std"),
    "3-D images": (IMAGES[0], LABELS, "needs images"),
    "other channels": (IMAGES[:, :1], LABELS, r"fused for \(N, 2, 10, 10\), and may compute something else"),
    "meta images": (IMAGES.to("meta"), LABELS, None),
    "meta labels": (IMAGES, LABELS.to("meta"), None),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_batches(case: str) -> None:
    images, labels, message = WRONG[case]
    step = make(torch.float32, **NESTEROV)
    unchanged(step, RuntimeError, message, lambda: step(images, labels))
    unchanged(step, RuntimeError, message, lambda: step.epoch(images, labels, 2, callback=print))


@pytest.mark.parametrize("value", [5, -1, -99, 2**62, -(2**63)])
def test_labels_out_of_range(value: int) -> None:
    step = make(torch.float32, **NESTEROV)
    labels, message = with_label(value), rf"target {value} at position 4 is out of range \[0, 5\)"
    unchanged(step, IndexError, message, lambda: step(IMAGES, labels))
    unchanged(step, IndexError, message, lambda: step.epoch(IMAGES, labels, 2))
    unchanged(step, IndexError, message, lambda: step.epoch(IMAGES, labels, 1, ORDER, print, 1))


@pytest.mark.parametrize("value", [6, -1, 2**62])
@pytest.mark.parametrize("callback", [None, lambda done, losses: None])
def test_order_out_of_range(value: int, callback: Any) -> None:
    step = make(torch.float32, **NESTEROV)
    order = torch.tensor([3, 0, value])
    message = rf"(order|permutation) {value} at position 2 is out of range \[0, 6\)"
    unchanged(step, IndexError, message, lambda: step.epoch(IMAGES, LABELS, 1, order, callback, 1))


@pytest.mark.parametrize("order", [ORDER.int(), ORDER.float(), ORDER[:, None], ORDER.to("meta")], ids=str)
@pytest.mark.parametrize("callback", [None, lambda done, losses: None])
def test_wrong_orders(order: Tensor, callback: Any) -> None:
    step = make(torch.float32, **NESTEROV)
    unchanged(step, RuntimeError, None, lambda: step.epoch(IMAGES, LABELS, 2, order, callback, 1))


@pytest.mark.parametrize("name", ["images", "targets", "permutation"])
@pytest.mark.parametrize("make_value", [Tensor.numpy, Tensor.tolist], ids=["numpy", "list"])
def test_no_tensors(name: str, make_value: Callable[[Tensor], object]) -> None:
    step = make(torch.float32, **NESTEROV)
    values: dict[str, Any] = {"images": IMAGES, "targets": LABELS, "permutation": ORDER}
    values[name] = make_value(values[name])
    message = rf"TrainStep: {name} must be a torch.Tensor, got (ndarray|list)"
    unchanged(step, TypeError, message, lambda: step.epoch(**values, batch_size=2))
    if name != "permutation":
        unchanged(step, TypeError, message, lambda: step(values["images"], values["targets"]))


def test_empty_batch() -> None:
    step = make(torch.float32, **NESTEROV)
    unchanged(step, RuntimeError, "the batch is empty", lambda: step(IMAGES[:0], LABELS[:0]))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size(batch_size: int) -> None:
    step = make(torch.float32, **NESTEROV)
    unchanged(step, ValueError, "at least 1", lambda: step.epoch(IMAGES, LABELS, batch_size))
    unchanged(step, ValueError, "at least 1", lambda: step.epoch(IMAGES, LABELS, 1, None, print, batch_size))


@pytest.mark.parametrize("targets", [torch.zeros(6, 4), torch.zeros(6), torch.zeros(6, 5).double(), LABELS])
def test_wrong_values(targets: Tensor) -> None:
    step = TrainStep(fuse(network()), lr=0.1, loss="mse")
    before = weights(step)
    with pytest.raises(RuntimeError, match="targets must"):
        step(IMAGES, targets)
    assert all(map(torch.equal, before, weights(step)))


def test_cross_entropy_of_images() -> None:
    step = TrainStep(fuse(nn.Sequential(nn.Conv2d(2, 5, 3))))
    with pytest.raises(RuntimeError, match="targets must be int64 with 3 dimensions"):
        step(IMAGES, LABELS)


def test_parameters_that_are_not_contiguous() -> None:
    step = TrainStep(fuse(network().to(memory_format=torch.channels_last)))
    with pytest.raises(RuntimeError, match="parameters must be contiguous"):
        step(IMAGES, LABELS)


def test_state_of_another_dtype() -> None:
    step = make(torch.float32, **NESTEROV)
    step(IMAGES, LABELS)
    step.fused.double()
    before = weights(step)
    with pytest.raises(
        RuntimeError, match="momentum_buffer must be contiguous, of the dtype of the parameters"
    ):
        step(IMAGES.double(), LABELS)
    assert all(map(torch.equal, before, weights(step)))


@pytest.mark.parametrize("bad", [torch.zeros(9), torch.zeros(6, 2, 3, 3).double()], ids=["shape", "dtype"])
def test_state_that_is_not_the_parameters(bad: Tensor) -> None:
    step = make(torch.float32, **NESTEROV)
    step(IMAGES, LABELS)
    step.optimizer.state[next(step.fused.parameters())]["momentum_buffer"] = bad
    before = weights(step)
    with pytest.raises(
        RuntimeError, match=r"momentum_buffer of 0.weight is \(.*\) in .*, the parameter \(6, 2, 3, 3\)"
    ):
        step(IMAGES, LABELS)
    assert all(map(torch.equal, before, weights(step)))


def test_what_is_no_fused_network() -> None:
    with pytest.raises(TypeError, match=r"fused must come from lenet_ext\.fuse, got Sequential"):
        TrainStep(network())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -0.1}, ValueError, "Invalid learning rate"),
        ({"momentum": -1.0}, ValueError, "Invalid momentum"),
        ({"weight_decay": -1.0}, ValueError, "Invalid weight_decay"),
        ({"nesterov": True}, ValueError, "Nesterov momentum requires a momentum"),
        ({"betas": (0.9, 0.999)}, TypeError, "betas"),
        ({"loss": "hinge"}, ValueError, 'loss must be "cross_entropy" or "mse", got \'hinge\''),
        ({"lr": 0.1, "differentiable": True}, RuntimeError, "parameter group 0 has differentiable=True"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """Those of the optimizer are torch's business."""
    with pytest.raises(error, match=message):
        make(torch.float32, **options)(IMAGES, LABELS)


def test_optimizers_that_do_not_fit() -> None:
    fused = fuse(network())

    class Modified(torch.optim.SGD):
        pass

    for optimizer, error, message in (
        (0.1, TypeError, r"optimizer must be a torch\.optim\.Optimizer, got float"),
        (
            torch.optim.LBFGS(fused.parameters()),
            TypeError,
            r"the engine has torch\.optim\.SGD, .*, not LBFGS",
        ),
        (
            Modified(fused.parameters(), lr=0.1),
            TypeError,
            r"the engine has .*, not Modified; train with fuse and",
        ),
        (torch.optim.SGD(network().parameters()), ValueError, "a parameter that is none of the network's"),
    ):
        with pytest.raises(error, match=message):
            TrainStep(fused, optimizer)
    with pytest.raises(TypeError, match="lr is an option of the optimizer, which is given"):
        TrainStep(fused, torch.optim.SGD(fused.parameters()), lr=0.1)


def test_states_of_other_networks() -> None:
    step = make(torch.float32, **NESTEROV)
    parameters = list(network().parameters())
    groups = torch.optim.SGD([{"params": parameters[:2]}, {"params": parameters[2:]}])
    fewer = torch.optim.SGD(parameters[:2])
    for source, message in (
        (groups, "different number of parameter groups"),
        (fewer, "doesn't match the size"),
    ):
        unchanged(step, ValueError, message, partial(step.load_state_dict, source.state_dict()))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_parameters_made_in_inference_mode_are_refused(mode: Callable[[], Any]) -> None:
    """As by torch's optimizers, which may not write into them; in that mode there is no backward."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(200, 5))
    fused = lenet_ext.fuse(model, IMAGES)
    with torch.inference_mode():
        model[1].weight = nn.Parameter(torch.randn(5, 200))
    step = TrainStep(fused, lr=0.1)
    before = [parameter.clone() for parameter in model.parameters()]
    with mode(), pytest.raises(RuntimeError, match=r"1\.weight was made in torch\.inference_mode"):
        step(IMAGES, LABELS)
    assert all(map(torch.equal, model.parameters(), before))


def test_a_step_refused_for_autocast_draws_nothing() -> None:
    """Its dropout would have a seed."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(2 * 6 * 6, 4))
    images = torch.randn(2, 1, 8, 8)
    step = TrainStep(lenet_ext.fuse(model, images).train(), lr=0.1)
    step(images, torch.tensor([0, 1]))
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="autocast is on"):
        step(images, torch.tensor([0, 1]))
    assert torch.equal(torch.get_rng_state(), state)
