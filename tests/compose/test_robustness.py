"""What surrounds a call: saved tensors that are modified, Python threads, other numbers of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import lenet_ext
import lenet_ext.functional as F
from lenet_ext.check import NATIVE

X, W, B = (4, 3, 12, 12), (6, 3, 3, 3), (6,)
CALLS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "conv2d": (F.conv2d, NATIVE.conv2d, [X, W, B]),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), lambda x: NATIVE.max_pool2d(x, 2), [X]),
    "linear": (F.linear, NATIVE.linear, [(64, 33), (17, 33), (17,)]),
    "relu": (F.relu, NATIVE.relu, [X]),
    "linear_relu": (F.linear_relu, NATIVE.linear_relu, [(64, 33), (17, 33), (17,)]),
    "conv2d_relu_max_pool2d": (F.conv2d_relu_max_pool2d, NATIVE.conv2d_relu_max_pool2d, [X, W, B]),
}
# What backward reads, here and natively. max_pool2d keeps its argmax here, and not its input.
READ_BY_BACKWARD = {
    "conv2d": ["input", "weight"],
    "linear": ["input", "weight"],
    "relu": ["output"],
    "linear_relu": ["input", "weight"],
    "conv2d_relu_max_pool2d": ["input", "weight"],
}


def inputs_of(name: str) -> list[Tensor]:
    return [torch.randn(shape, requires_grad=True) for shape in CALLS[name][2]]


def results(name: str, inputs: list[Tensor]) -> list[Tensor]:
    output = CALLS[name][0](*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, torch.ones_like(output))]


@pytest.mark.parametrize(
    ("name", "changed"), [(name, tensor) for name, tensors in READ_BY_BACKWARD.items() for tensor in tensors]
)
def test_a_modified_saved_tensor_is_detected(name: str, changed: str) -> None:
    """By torch's version counter: backward refuses, as natively, instead of computing from other values."""
    for function in CALLS[name][:2]:
        inputs = inputs_of(name)
        output = function(*inputs)
        with torch.no_grad():
            dict(zip(["input", "weight", "bias"], inputs, strict=False), output=output)[changed].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


def test_a_modified_input_of_max_pool2d_does_no_harm() -> None:
    """Its backward reads the places of the maxima alone, which are kept as they were."""
    x = torch.randn(X, requires_grad=True)
    output = F.max_pool2d(x, 2)
    (wanted,) = torch.autograd.grad(output.sum(), x, retain_graph=True)
    with torch.no_grad():
        x.neg_()
    assert torch.equal(torch.autograd.grad(output.sum(), x)[0], wanted)


def test_a_modified_parameter_of_a_fused_network_is_detected() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    fused = lenet_ext.fuse(model, torch.randn(X))
    output = fused(torch.randn(X))
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_training_step_is_seen_by_graphs_made_before_it() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 4), nn.ReLU(), nn.Linear(4, 5))
    images, targets = torch.randn(8, 3, 3, 3), torch.randint(5, (8,))
    fused = lenet_ext.fuse(model, images)
    loss = model(images).sum()
    lenet_ext.TrainStep(fused, lr=0.1)(images, targets)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("inner_threads", [1, 3])
def test_calls_from_many_python_threads(inner_threads: int) -> None:
    """Bitwise what one thread computes. The kernels run without Python's lock, so they truly run at once."""
    torch.set_num_threads(inner_threads)
    inputs = {name: inputs_of(name) for name in CALLS}
    wanted = {name: results(name, inputs[name]) for name in CALLS}

    def call(number: int) -> bool:
        name = list(CALLS)[number % len(CALLS)]
        return all(map(torch.equal, results(name, inputs[name]), wanted[name]))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(40 * len(CALLS))))


@pytest.mark.usefixtures("threads")
def test_fused_training_in_many_python_threads() -> None:
    """Each thread trains a network of its own, and all end with the weights of one that trained alone."""
    images, targets = torch.randn(40, 3, 10, 10), torch.randint(5, (40,))

    def train(_: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-0.2, 0.2, generator=generator)
        with lock:  # torch.export is not made for threads
            fused = lenet_ext.fuse(model, images)
        step = lenet_ext.TrainStep(fused, lr=0.05, momentum=0.9)
        for _ in range(20):
            step(images, targets)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    lock = threading.Lock()
    alone = train(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(weights, alone) for weights in pool.map(train, range(8)))


@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_changes_between_forward_and_backward() -> None:
    for name in CALLS:
        inputs = inputs_of(name)
        torch.set_num_threads(1)
        wanted = results(name, inputs)
        for forward, backward in ((1, 3), (3, 1), (2, 5)):
            torch.set_num_threads(forward)
            output = CALLS[name][0](*inputs)
            torch.set_num_threads(backward)
            grads = torch.autograd.grad(output, inputs, torch.ones_like(output))
            assert all(map(torch.equal, [output.detach(), *grads], wanted)), name
