"""JAX: the same network in its functions, compiled with jit, in torch's memory layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU

from benchmarks.engines import CHECKED_RATE, MOMENTUM, TIMED_RATE, Engine, Run, result_run, training_run
from benchmarks.tasks import INFERENCE, Task

Arrays = list[Any]


def jax_run(task: Task) -> Run | None:
    """Of training, gradients and the update are one compiled function, which overwrites the parameters."""
    import jax

    use_threads(task.threads)
    module, images = task.module(), _array(task.images())
    parameters = [_array(parameter) for parameter in module.parameters()]
    if task.direction == INFERENCE:
        forward = jax.jit(lambda parameters, images: _forward(module, parameters, images))
        return result_run("output", lambda: forward(parameters, images).block_until_ready())
    return _training_run(_update_of(module), parameters, images, _array(task.labels()))


def jax_vmap_run(task: Task, members: int) -> Run:
    """The step of one network under vmap and jit, for many networks."""
    import jax

    use_threads(task.threads)
    module = task.module()
    parameters = [jax.numpy.stack([_array(one)] * members) for one in module.parameters()]
    update = jax.vmap(_update_of(module), in_axes=(0, None, None, None))
    return _training_run(update, parameters, _array(task.images()), _array(task.labels()))


def _training_run(update: Callable[..., Any], parameters: Arrays, images: Any, labels: Any) -> Run:
    """Of `update` under jit, which overwrites the parameters."""
    import jax

    compiled = jax.jit(update, donate_argnums=0)
    state, rate = (parameters, [jax.numpy.zeros_like(one) for one in parameters]), CHECKED_RATE

    def step() -> Any:
        nonlocal state
        state, loss = jax.block_until_ready(compiled(state, images, labels, rate))
        return loss

    def slow_down() -> None:
        nonlocal rate
        rate = TIMED_RATE

    return training_run(step, lambda: state[0], slow_down)


def _update_of(module: Module) -> Callable[..., Any]:
    """Of parameters and their momenta."""
    import jax

    def loss_of(parameters: Arrays, images: Any, labels: Any) -> Any:
        logarithms = jax.nn.log_softmax(_forward(module, parameters, images))
        return -jax.numpy.take_along_axis(logarithms, labels[:, None], 1).mean()

    def update(state: tuple[Arrays, Arrays], images: Any, labels: Any, rate: Any) -> Any:
        parameters, momenta = state
        loss, gradients = jax.value_and_grad(loss_of)(parameters, images, labels)
        momenta = [MOMENTUM * old + new for old, new in zip(momenta, gradients, strict=True)]
        parameters = [old - rate * momentum for old, momentum in zip(parameters, momenta, strict=True)]
        return (parameters, momenta), loss

    return update


def _forward(module: Module, parameters: Arrays, values: Any) -> Any:
    """What a chain of layers computes of (N, C, H, W)."""
    remaining = iter(parameters)
    for layer in module.children():
        values = _apply(layer, remaining, values)
    return values


def _apply(layer: Module, parameters: Iterator[Any], values: Any) -> Any:
    """Takes the layer's parameters, if it has any, off the front of `parameters`."""
    import jax
    from jax import lax, numpy

    match layer:
        case Conv2d():
            padding = [(int(amount), int(amount)) for amount in layer.padding]
            weight, bias = next(parameters), next(parameters)
            formats = ("NCHW", "OIHW", "NCHW")
            sums = lax.conv_general_dilated(values, weight, layer.stride, padding, dimension_numbers=formats)
            return sums + bias[:, None, None]
        case MaxPool2d():
            window = (1, 1, layer.kernel_size, layer.kernel_size)
            strides = (1, 1, layer.stride, layer.stride)
            return lax.reduce_window(values, -numpy.inf, lax.max, window, strides, "VALID")
        case Linear():
            weight, bias = next(parameters), next(parameters)
            return values.reshape(len(values), -1) @ weight.T + bias
        case ReLU():
            return jax.nn.relu(values)
        case Flatten():
            return values.reshape(len(values), -1)
    raise NotImplementedError(f"JAX: {type(layer).__name__}")


def use_threads(number: int) -> None:
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


def _array(tensor: Tensor) -> Any:
    import jax

    return jax.numpy.array(tensor.detach().numpy())  # a copy: a step overwrites its parameters


JAX = Engine("JAX jit", jax_run, packages=("jax",))
