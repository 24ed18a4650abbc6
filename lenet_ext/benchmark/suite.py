"""The layers that small convolutional networks are made of, each forward and backward."""

from __future__ import annotations

from typing import Any

from lenet_ext.benchmark.cases import BACKWARD, FORWARD, OperatorCase


def suite() -> list[OperatorCase]:
    """Every layer below forward and forward + backward."""
    return [
        OperatorCase(name=name, direction=direction, **layer)
        for name, layer in (*_convolutions(), *_poolings(), *_linears(), _relu())
        for direction in (FORWARD, BACKWARD)
    ]


Layer = tuple[str, dict[str, Any]]


def _convolutions() -> list[Layer]:
    return [
        _conv2d(1, 16, 32, 16, batch=64),
        _conv2d(1, 64, 128, 8, batch=16),
        _conv2d(3, 1, 8, 28, batch=256, padding=1),
        _conv2d(3, 3, 16, 32, batch=64, padding=1),
        _conv2d(3, 16, 16, 32, batch=32, padding=1),
        _conv2d(3, 32, 64, 16, batch=64, padding=1, stride=2),
        _conv2d(3, 64, 64, 8, batch=16, padding=1),
        _conv2d(3, 128, 128, 8, batch=1, padding=1),
        _conv2d(5, 1, 6, 28, batch=1, padding=2),
        _conv2d(5, 3, 6, 32, batch=256),
        _conv2d(5, 6, 16, 14, batch=256),
        _conv2d(5, 32, 64, 14, batch=16, padding=2),
        _conv2d(7, 3, 16, 32, batch=32, padding=3, stride=2),
        _conv2d(3, 32, 32, 16, batch=64, padding=1, groups=32),
        _conv2d(5, 64, 64, 14, batch=16, padding=2, groups=64),
    ]


def _poolings() -> list[Layer]:
    return [
        _max_pool2d(2, 6, 28, batch=1),
        _max_pool2d(2, 16, 32, batch=64),
        _max_pool2d(3, 32, 16, batch=64, padding=1, stride=2),
    ]


def _linears() -> list[Layer]:
    return [
        _linear(84, 10, batch=1),
        _linear(400, 120, batch=256),
        _linear(1024, 256, batch=16),
        _linear(9216, 128, batch=64),
    ]


def _conv2d(kernel: int, inputs: int, outputs: int, size: int, *, batch: int, **arguments: int) -> Layer:
    groups = arguments.get("groups", 1)
    kind = f"conv {kernel}x{kernel}" + (f" stride {arguments['stride']}" if "stride" in arguments else "")
    channels = f"{inputs} to {outputs}" if groups == 1 else f"{inputs} depthwise"
    return f"{kind}, {channels}, {size}x{size}", {
        "operator": "conv2d",
        "input": (inputs, size, size),
        "weight": (outputs, inputs // groups, kernel, kernel),
        "batch": batch,
        "arguments": arguments,
        "input_gradient": inputs > 3,  # with fewer channels it is a network's first layer
    }


def _max_pool2d(kernel: int, channels: int, size: int, *, batch: int, **arguments: int) -> Layer:
    stride = f" stride {arguments['stride']}" if "stride" in arguments else ""
    return f"pool {kernel}x{kernel}{stride}, {channels}, {size}x{size}", {
        "operator": "max_pool2d",
        "input": (channels, size, size),
        "batch": batch,
        "arguments": {"kernel_size": kernel, **arguments},
    }


def _linear(inputs: int, outputs: int, *, batch: int) -> Layer:
    return f"linear, {inputs} to {outputs}", {
        "operator": "linear",
        "input": (inputs,),
        "weight": (outputs, inputs),
        "batch": batch,
    }


def _relu() -> Layer:
    return "relu, 16, 32x32", {"operator": "relu", "input": (16, 32, 32), "batch": 64}
