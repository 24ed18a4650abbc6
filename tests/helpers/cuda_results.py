"""Checks all operators over the CUDA kernels, emulated or on a GPU, against those of the CPU.

Prints a digest of their results, bit by bit. Needs torch alone. Sizes cross the edges of tiles, slabs and
splits.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from collections.abc import Iterator

import torch
from on_device import run_operators_on
from operators import operators, options
from torch import Tensor

from lenet_ext.engine.layers import Activation, Conv2d, Flatten, Linear, MaxPool2d
from lenet_ext.engine.network import Network

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Largest error of a result, relative to the largest of its tensor: sums of up to 2,000 products in another
# order, rounded once.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-14, torch.bfloat16: 1e-2, torch.float16: 1e-3}
FORMATS = [torch.contiguous_format, torch.channels_last]
# input, weight, (stride, stride, four paddings, dilation, dilation, groups)
CONVOLUTIONS = [
    ((3, 3, 12, 13), (6, 3, 5, 5), (1, 1, 0, 0, 0, 0, 1, 1, 1)),
    ((2, 6, 9, 9), (16, 6, 5, 5), (1, 1, 1, 2, 0, 1, 1, 1, 1)),
    ((2, 4, 11, 9), (34, 2, 3, 2), (2, 3, 1, 1, 1, 1, 2, 1, 2)),
    ((1, 2, 20, 21), (70, 2, 3, 3), (1, 1, 1, 1, 1, 1, 1, 1, 1)),
]
# rows, in, out: one split of the weight's gradient, and several
MATRICES = [(5, 17, 10), (67, 40, 84), (600, 9, 7), (130, 1, 65)]
# kernel, stride, padding, dilation, ceil_mode
POOLS = [(2, 2, 0, 1, False), (3, 2, 1, 1, True), (3, 1, 1, 2, False), (17, 5, 8, 1, False)]


def square(*sizes: int) -> tuple[tuple[int, int], ...]:
    return tuple((size, size) for size in sizes)


def pool2x2() -> MaxPool2d:
    return MaxPool2d(*square(2, 2, 0, 1), ceil_mode=False)


def conv5x5() -> Conv2d:
    return Conv2d((1, 1), (0, 0, 0, 0), (1, 1), groups=1)


# The LeNet's layers, small; a pool of its own and paddings; the images' sizes, and those of the parameters.
NETWORKS = [
    (
        Network.chain(
            "network",
            *((conv5x5(), (0, 1)), (Activation("relu"), ()), (pool2x2(), ())),
            *((conv5x5(), (2, 3)), (Activation("relu"), ()), (pool2x2(), ()), (Flatten(), ())),
            *((Linear(), (4, 5)), (Activation("relu"), ()), (Linear(), (6, 7))),
        ),
        (3, 18, 17),
        [(6, 3, 5, 5), (6,), (16, 6, 5, 5), (16,), (33, 16), (33,), (10, 33), (10,)],
    ),
    (
        Network.chain(
            "network",
            (MaxPool2d((3, 2), (2, 1), (1, 0), (1, 1), ceil_mode=True), ()),
            (Conv2d((2, 1), (1, 2, 0, 1), (1, 2), groups=2), (0,)),
            (Activation("relu"), ()),
            (MaxPool2d((3, 3), (2, 2), (1, 1), (1, 1), ceil_mode=True), ()),
            (Conv2d((1, 1), (1, 1, 1, 1), (1, 1), groups=1), (1, 2)),
            (Flatten(), ()),
            (Linear(), (3, 4)),
        ),
        (4, 15, 13),
        [(6, 2, 3, 4), (1, 6, 3, 3), (1,), (5, 12), (5,)],
    ),
]
NETWORK_BATCHES = (3, 9)  # images apart, and in vectors of several


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def results(dtype: torch.dtype, memory_format: torch.memory_format) -> Iterator[Tensor]:
    for image_shape, weight_shape, numbers in CONVOLUTIONS:
        image = normal(*image_shape).to(dtype).contiguous(memory_format=memory_format)
        weight, bias = normal(*weight_shape).to(dtype), normal(weight_shape[0]).to(dtype)
        output = operators.conv2d(image, weight, bias, *numbers)
        yield output
        yield from operators.conv2d_grads(output, image, weight, *numbers, True)
    for kernel, stride, padding, dilation, ceil_mode in POOLS:
        geometry = (kernel, kernel, stride, stride, padding, padding, dilation, dilation)
        image = normal(2, 3, 19, 22).to(dtype).contiguous(memory_format=memory_format)
        output, argmax = operators.max_pool2d(image, *geometry, ceil_mode, True)
        yield from (output, argmax, operators.max_pool2d_indices(argmax, 19, 22, *geometry))
        yield operators.max_pool2d_input_grad(output, argmax, 19, 22, *geometry)
    if memory_format is torch.channels_last:
        return
    for rows, in_features, out_features in MATRICES:
        rows_in, weight = normal(rows, in_features).to(dtype), normal(out_features, in_features).to(dtype)
        output = operators.linear(rows_in, weight, normal(out_features).to(dtype))
        yield output
        yield from operators.linear_grads(output, rows_in, weight, True)
    stack, weights = normal(3, 5, 9).to(dtype), normal(3, 7, 9).to(dtype)
    output = operators.linear(stack, weights, normal(3, 7).to(dtype))
    yield output
    yield from operators.linear_grads(output, stack, weights, True)
    yield from network_results(dtype)
    for count in (1, 4097):
        # A slice is not aligned to the vectors that relu loads.
        for values in (normal(count).to(dtype), normal(count + 1).to(dtype)[1:]):
            output = operators.relu(values)
            yield from (output, operators.relu_grad(values, output))


def network_results(dtype: torch.dtype) -> Iterator[Tensor]:
    for (network, image_sizes, shapes), batch in itertools.product(NETWORKS, NETWORK_BATCHES):
        images, program = normal(batch, *image_sizes).to(dtype), network.program()
        parameters = [(normal(*shape) / shape[-1]).to(dtype) for shape in shapes]
        yield from operators.network(images, parameters, program, None, None)
        (output,), saved, argmax = operators.network_forward(images, parameters, program, None, None)
        yield from (output, saved, argmax)
        yield from operators.network_backward(
            [output], images, parameters, saved, argmax, program, None, None, True, True
        )
        state = [torch.zeros(sum(parameter.numel() for parameter in parameters), dtype=dtype)]
        rows = options(len(parameters), 1e-4, 0.9, 0.0, 0.01, True)
        rows[1, 0] = 0  # a parameter that is left as it is
        rows[2, 1:] = torch.tensor([1e-4, 0.9, 0.5, 0.01, False, True])
        rows[-1, 1:] = torch.tensor([1e-3, 0, 0, 0, False, False])
        order, classes = torch.arange(batch).flip(0), torch.arange(batch) % output.shape[1]
        bytes = (images.float() * 20 + 128).clamp(0, 255).to(torch.uint8)
        normalization = torch.tensor([[1 / 64] * image_sizes[0], [-2.0] * image_sizes[0]])
        steps = (
            (images, output + 1, "mse"),
            (images, output.softmax(1), "cross_entropy mean -100 0.25"),
            (bytes, classes, "cross_entropy"),
        )
        for source, targets, loss in steps:
            yield operators.network_train(
                *(source, targets, order, parameters, state, rows, [], None),
                network.program(f"loss {loss}", "optimizer SGD"),
                *(normalization if source is bytes else None, batch - 1),
            )
        yield from (*state, *parameters)


def all_results() -> list[Tensor]:
    torch.manual_seed(0)
    return [
        result
        for dtype, memory_format in itertools.product(DTYPES, FORMATS)
        for result in results(dtype, memory_format)
    ]


def check(actual: Tensor, expected: Tensor) -> None:
    assert actual.isfinite().all()
    if actual.is_floating_point() and actual.numel() > 0:
        largest = float(expected.double().abs().max()) or 1.0
        error = float((actual.double() - expected.double()).abs().max()) / largest
        assert error < TOLERANCE[actual.dtype], (
            f"{actual.dtype}, {tuple(actual.shape)}: relative error {error}"
        )
    else:
        assert torch.equal(actual, expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kernels = parser.add_mutually_exclusive_group(required=True)
    kernels.add_argument("--emulator", metavar="LIBRARY")
    kernels.add_argument("--cuda", action="store_true")
    arguments = parser.parse_args()
    expected = all_results()
    if arguments.cuda:
        run_operators_on(torch.device("cuda"))
    else:
        torch.ops.load_library(arguments.emulator)
    digest = hashlib.sha256()
    for actual, wanted in zip(all_results(), expected, strict=True):
        check(actual, wanted)
        digest.update(bytes(actual.contiguous().flatten().view(torch.uint8).tolist()))
    print(digest.hexdigest())


if __name__ == "__main__":
    main()
