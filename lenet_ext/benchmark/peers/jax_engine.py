"""JAX: the same network in its functions, compiled with jit, in torch's memory layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lenet_ext.benchmark.peers.engines import CHECKED_RATE, MOMENTUM, Engine, Inference, Training
from lenet_ext.benchmark.peers.networks import Task

Parameters = list[Any]
Forward = Callable[[Parameters, Any], Any]


class Jax(Engine):
    name = "JAX jit"
    package = "jax"

    def inference(self, task: Task) -> Inference:
        import jax

        _use_threads(task.threads)
        model = task.model()
        forward = jax.jit(forward_of(model))
        parameters, images = _arrays(model.parameters()), _array(task.images())
        return lambda: forward(parameters, images).block_until_ready()

    def training(self, task: Task) -> Training:
        _use_threads(task.threads)
        return JaxTraining(task)


class JaxTraining(Training):
    """Gradients and the update in one compiled function, which overwrites the parameters."""

    def __init__(self, task: Task):
        import jax

        model = task.model()
        self._step = jax.jit(_step_of(forward_of(model)), donate_argnums=(0, 1))
        self._parameters = _arrays(model.parameters())
        self._momenta = [jax.numpy.zeros_like(parameter) for parameter in self._parameters]
        self._images, self._labels = _array(task.images()), _array(task.labels())
        self._rate = CHECKED_RATE

    def __call__(self) -> Any:
        import jax

        arguments = (self._parameters, self._momenta, self._images, self._labels, self._rate)
        self._parameters, self._momenta, loss = jax.block_until_ready(self._step(*arguments))
        return loss

    def set_learning_rate(self, rate: float) -> None:
        self._rate = rate

    def parameters(self) -> Sequence[Any]:
        return self._parameters


def forward_of(model: torch.nn.Module) -> Forward:
    """What a chain of layers computes, of its parameters and (N, C, H, W)."""
    layers = [_function_of(layer) for layer in model.children()]

    def forward(parameters: Parameters, values: Any) -> Any:
        remaining = iter(parameters)
        for layer in layers:
            values = layer(values, remaining)
        return values

    return forward


def _function_of(layer: torch.nn.Module) -> Callable[[Any, Any], Any]:
    import jax
    from jax import lax, numpy

    def convolution(values: Any, parameters: Any) -> Any:
        assert isinstance(layer, torch.nn.Conv2d)
        padding = [(int(amount), int(amount)) for amount in layer.padding]
        weight, bias = next(parameters), next(parameters)
        formats = ("NCHW", "OIHW", "NCHW")
        sums = lax.conv_general_dilated(values, weight, layer.stride, padding, dimension_numbers=formats)
        return sums + bias[:, None, None]

    def pooling(values: Any, _: Any) -> Any:
        assert isinstance(layer, torch.nn.MaxPool2d)
        window, strides = (1, 1, layer.kernel_size, layer.kernel_size), (1, 1, layer.stride, layer.stride)
        return lax.reduce_window(values, -numpy.inf, lax.max, window, strides, "VALID")

    def linear(values: Any, parameters: Any) -> Any:
        weight, bias = next(parameters), next(parameters)
        return values.reshape(len(values), -1) @ weight.T + bias

    functions: dict[type[torch.nn.Module], Callable[[Any, Any], Any]] = {
        torch.nn.Conv2d: convolution,
        torch.nn.MaxPool2d: pooling,
        torch.nn.Linear: linear,
        torch.nn.ReLU: lambda values, _: jax.nn.relu(values),
        torch.nn.Flatten: lambda values, _: values.reshape(len(values), -1),
    }
    return functions[type(layer)]


def _step_of(forward: Forward) -> Callable[..., Any]:
    import jax

    def loss_of(parameters: Parameters, images: Any, labels: Any) -> Any:
        logarithms = jax.nn.log_softmax(forward(parameters, images))
        return -jax.numpy.take_along_axis(logarithms, labels[:, None], 1).mean()

    def step(parameters: Parameters, momenta: Parameters, images: Any, labels: Any, rate: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(parameters, images, labels)
        momenta = [MOMENTUM * old + new for old, new in zip(momenta, gradients, strict=True)]
        moved = [old - rate * momentum for old, momentum in zip(parameters, momenta, strict=True)]
        return moved, momenta, loss

    return step


def _use_threads(number: int) -> None:
    """Start JAX anew with a pool of so many threads: it makes one for each CPU it may use when it starts."""
    import jax
    from jax.extend.backend import clear_backends

    clear_backends()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:number])
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.devices()
    finally:
        os.sched_setaffinity(0, allowed)


def _arrays(tensors: Any) -> Parameters:
    return [_array(tensor) for tensor in tensors]


def _array(tensor: torch.Tensor) -> Any:
    import jax

    return jax.numpy.array(tensor.detach().numpy())  # a copy: a step overwrites its parameters
