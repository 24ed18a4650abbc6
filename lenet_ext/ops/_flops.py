"""For torch.utils.flop_counter: the floating-point operations of conv2d, linear and their gradients.

As torch counts them: two for each product of an input element and a weight, none for a bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

operators = torch.ops.lenet_ext
Shape = Sequence[int]


def _products(weight: Shape) -> int:
    """Of one element of the output, for a convolution's weight or that of linear, (members,) out, in."""
    return prod(weight[1:]) if len(weight) == 4 else weight[-1]


@register_flop_formula([operators.conv2d, operators.linear])
def _forward(input: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * prod(out_shape) * _products(weight)


@register_flop_formula([operators.conv2d_input_grad, operators.linear_input_grad])
def _input_grad(grad_output: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(grad_output) * _products(weight)


@register_flop_formula([operators.conv2d_weight_grad, operators.linear_weight_grad])
def _weight_grad(grad_output: Shape, *_: Any, out_shape: Sequence[Shape], **__: Any) -> int:
    return 2 * prod(grad_output) * _products(out_shape[0])


@register_flop_formula([operators.conv2d_grads, operators.linear_grads])
def _both_grads(grad_output: Shape, input: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 4 * prod(grad_output) * _products(weight)
