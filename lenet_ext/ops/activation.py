"""The engine's activations one by one: fake kernels of operators that have no gradients of their own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lenet_ext.ops import _fake


@_fake.register("activation")
def _fake_activation(input: Tensor, name: str, options: Sequence[float]) -> Tensor:
    return _fake.empty(input, input.shape)


@_fake.register("activation_grad")
def _fake_activation_grad(grad_output: Tensor, saved: Tensor, name: str, options: Sequence[float]) -> Tensor:
    return _fake.empty(saved, saved.shape)
