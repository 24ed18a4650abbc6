"""Prints the instruction set in use after comparing all operators, fused networks and dtypes with float64."""

from __future__ import annotations

import copy
import itertools

import chains
import test_winograd
import torch
from strategies import laid_out, normal
from torch import Tensor

import lenet_ext
import lenet_ext.functional as F
from lenet_ext.check import NATIVE

# Largest error of a sum of about a hundred products of normal numbers, relative to the largest result.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 1e-2, torch.float16: 1e-3}
CALLS = {
    "conv2d 5x5": (lambda f, x, w: f.conv2d(x, w), [(3, 3, 12, 37), (9, 3, 5, 5)]),
    "conv2d 3x3": (lambda f, x, w, b: f.conv2d(x, w, b, padding=1), [(2, 17, 7, 9), (18, 17, 3, 3), (18,)]),
    "conv2d 1x1": (lambda f, x, w, b: f.conv2d(x, w, b), [(2, 19, 5, 7), (33, 19, 1, 1), (33,)]),
    "conv2d 7x7": (lambda f, x, w: f.conv2d(x, w, stride=2, padding=3), [(1, 3, 17, 23), (8, 3, 7, 7)]),
    "conv2d depthwise": (
        lambda f, x, w: f.conv2d(x, w, groups=19, padding=1),
        [(2, 19, 6, 18), (19, 1, 3, 3)],
    ),
    "conv2d dilated": (lambda f, x, w: f.conv2d(x, w, dilation=2, groups=2), [(1, 6, 9, 11), (4, 3, 3, 2)]),
    "conv2d of LeNet": (lambda f, x, w, b: f.conv2d(x, w, b), [(3, 6, 14, 14), (16, 6, 5, 5), (16,)]),
    "conv2d 5x5 padded": (
        lambda f, x, w: f.conv2d(x, w, padding=(3, 2), groups=2),
        [(2, 10, 8, 9), (34, 5, 5, 5)],
    ),
    "conv2d 3x3 of short rows": (
        lambda f, x, w: f.conv2d(x, w, stride=(2, 1), dilation=(2, 1), padding=1),
        [(2, 7, 11, 7), (17, 7, 3, 3)],
    ),
    "conv2d stride 2": (lambda f, x, w: f.conv2d(x, w, stride=2, padding=1), [(2, 2, 7, 69), (5, 2, 3, 3)]),
    "max_pool2d 2x2": (lambda f, x: f.max_pool2d(x, 2), [(2, 17, 9, 37)]),
    "max_pool2d 3x3": (lambda f, x: f.max_pool2d(x, 3, 2, 1, ceil_mode=True), [(2, 9, 10, 19)]),
    "linear": (lambda f, x, w, b: f.linear(x, w, b), [(17, 67), (35, 67), (35,)]),
    "linear of a row": (lambda f, x, w: f.linear(x, w), [(1, 129), (31, 129)]),
    "conv2d_relu_max_pool2d": (
        lambda f, x, w, b: f.conv2d_relu_max_pool2d(x, w, b, padding=1),
        [(3, 5, 10, 37), (9, 5, 3, 3), (9,)],
    ),
    "linear_relu": (lambda f, x, w, b: f.linear_relu(x, w, b), [(17, 67), (35, 67), (35,)]),
    "linear of one feature": (lambda f, x, w, b: f.linear(x, w, b), [(19, 1), (37, 1), (37,)]),
    "linear to one feature": (lambda f, x, w, b: f.linear(x, w, b), [(19, 37), (1, 37), (1,)]),
    "relu": (lambda f, x: f.relu(x), [(3, 5, 7, 3)]),
}


def results(functions, call, tensors: list[Tensor]) -> list[Tensor]:
    """Output and gradients."""
    inputs = [tensor.detach().requires_grad_() for tensor in tensors]
    output = call(functions, *inputs)
    weights = normal(tuple(output.shape), torch.bfloat16, 5).to(output.dtype)
    return [output, *torch.autograd.grad(output, inputs, weights)]


def fused_networks() -> None:
    """The fused engine and its training step, in every dtype."""
    for dtype, (model, images) in itertools.product(TOLERANCE, (lenet(), strided())):
        model = model.to(torch.bfloat16).to(dtype)
        exact = copy.deepcopy(model).double()
        expected = chains.results(exact, exact, images.to(dtype).double())
        fused = lenet_ext.fuse(model, images.to(dtype))
        for actual, wanted in zip(chains.results(fused, fused, images.to(dtype)), expected, strict=True):
            chains.assert_near(actual, wanted, 10 * TOLERANCE[dtype])
        step = lenet_ext.TrainStep(fused, lr=0.1, momentum=0.9)
        optimizer = torch.optim.SGD(exact.parameters(), lr=0.1, momentum=0.9)
        labels = torch.arange(len(images)) % 10
        for _ in range(2 if dtype.itemsize > 2 else 1):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(exact(images.to(dtype).double()), labels)
            loss.backward()
            optimizer.step()
            chains.assert_near(step(images.to(dtype), labels), loss.detach(), 10 * TOLERANCE[dtype])
        for actual, wanted in zip(fused.parameters(), exact.parameters(), strict=True):
            chains.assert_near(actual.detach(), wanted.detach(), 100 * TOLERANCE[dtype])


def winograd() -> None:
    for shape in test_winograd.SHAPES:
        test_winograd.test_output_and_gradients(shape, "2x2")


def lenet() -> tuple[torch.nn.Module, Tensor]:
    torch.manual_seed(0)
    return lenet_ext.LeNet(layers=torch.nn), normal((35, 3, 32, 32), torch.bfloat16, 1)


def strided() -> tuple[torch.nn.Module, Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Conv2d(4, 18, 3, 2, 1, groups=2), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2, 1)),
        *(torch.nn.Conv2d(18, 7, 2, dilation=2), torch.nn.Flatten(), torch.nn.Linear(63, 10)),
    )
    return model, normal((5, 4, 19, 17), torch.bfloat16, 1)


def main() -> None:
    layouts = ["contiguous", "channels_last", "sliced"]
    for (name, (call, shapes)), dtype, layout in itertools.product(CALLS.items(), TOLERANCE, layouts):
        tensors = [normal(shape, dtype, i) for i, shape in enumerate(shapes)]
        if tensors[0].dim() == 4:
            tensors[0] = laid_out(tensors[0], layout)
        exact = results(NATIVE, call, [tensor.double() for tensor in tensors])
        for actual, expected in zip(results(F, call, tensors), exact, strict=True):
            error = (actual.double() - expected).abs().max() / expected.abs().max()
            assert error < TOLERANCE[dtype], f"{name}, {dtype}, {layout}: relative error {error:.1e}"
    fused_networks()
    winograd()
    print(lenet_ext.cpu_isa())


if __name__ == "__main__":
    main()
