"""linear: fake kernels, autograd Functions, public function.

The operators take stacks as well, a product for each member in one call: weight (members, out, in), bias
(members, out), input (members, ..., in). The rules for torch.vmap make them; the public function takes none.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_variadic

from lenet_ext.ops import _fake
from lenet_ext.ops._arguments import any_autocast, autocast, not_tensors
from lenet_ext.ops._autograd import add, differentiable, followed, save
from lenet_ext.ops._batching import member_shape, over_rows, stack, unfold, unstack

_linear_op = torch.ops.lenet_ext.linear.default
_input_grad_op = torch.ops.lenet_ext.linear_input_grad.default
_weight_grad_op = torch.ops.lenet_ext.linear_weight_grad.default
_grads_op = torch.ops.lenet_ext.linear_grads.default

Dim: TypeAlias = int | None


@_fake.register("linear")
def _fake_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[-2]))


@_fake.register("linear_input_grad")
def _fake_input_grad(grad_output: Tensor, weight: Tensor) -> Tensor:
    return grad_output.new_empty((*grad_output.shape[:-1], weight.shape[-1]))


@_fake.register("linear_weight_grad")
def _fake_weight_grad(
    grad_output: Tensor, input: Tensor, bias: int, stacked: int = 0
) -> tuple[Tensor, Tensor]:
    lead, out_features = grad_output.shape[: int(bool(stacked))], grad_output.shape[-1]
    grad_weight = grad_output.new_empty((*lead, out_features, input.shape[-1]))
    return grad_weight, grad_output.new_empty((*lead, out_features if bias else 0))


@_fake.register("linear_grads")
def _fake_grads(
    grad_output: Tensor, input: Tensor, weight: Tensor, bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _fake_weight_grad(grad_output, input, bias, weight.dim() == 3)
    return grad_output.new_empty(input.shape), *grads


def _checked_shape(
    in_dims: tuple[Dim, Dim, Dim], input: Tensor, weight: Tensor, bias: Tensor | None
) -> list[int]:
    """The weight's shape of each member of vmap, whose dimension would hide wrong ones from the operator."""
    shape = member_shape(weight, in_dims[1])
    if len(shape) not in (2, 3):
        raise RuntimeError(f"linear: weight must have 2 dimensions (out, in), got {shape}")
    if len(member_shape(input, in_dims[0])) < len(shape) - 1:
        raise RuntimeError("linear: input must have at least 1 dimension")
    if bias is not None and (sizes := member_shape(bias, in_dims[2])) != shape[:-1]:
        raise RuntimeError(f"linear: bias must have the sizes {shape[:-1]}, got {sizes}")
    return shape


def _bias_grad(grad_output: Tensor, stacked: bool) -> Tensor:
    """The sum over the rows, of which a vector is one."""
    return grad_output.unsqueeze(-2).flatten(int(stacked), -2).sum(-2)


class Linear(Function):
    """input @ weight.T + bias."""

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _linear_op(input, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        save(ctx, inputs[0], inputs[1])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_output is None:
            return None, None, None
        input, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad
        grad_input = grad_weight = grad_bias = None
        if needs_input and needs_weight and not followed():
            grads = _grads_op(grad_output, input, weight, needs_bias)
            return grads if needs_bias else (*grads[:2], None)
        if needs_input:
            grad_input = _linear_input_grad(grad_output, weight)
        if needs_weight:
            stacked = weight.dim() == 3
            grad_weight, grad_bias = _linear_weight_grad(grad_output, input, needs_bias, stacked)
        elif needs_bias:
            grad_bias = _bias_grad(grad_output, weight.dim() == 3)
        return grad_input, grad_weight, grad_bias if needs_bias else None

    @staticmethod
    def jvp(
        ctx: Any, input_tangent: Tensor | None, weight_tangent: Tensor | None, bias_tangent: Tensor | None
    ) -> Tensor | None:
        input, weight = ctx.saved_tensors
        if bias_tangent is not None and weight_tangent is None:
            weight_tangent = torch.zeros_like(weight)
        return add(
            None if input_tangent is None else _linear(input_tangent, weight, None),
            None if weight_tangent is None else _linear(input, weight_tangent, bias_tangent),
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Dim, Dim, Dim], input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        input_dim, weight_dim, bias_dim = in_dims
        *members, out_features, _ = _checked_shape(in_dims, input, weight, bias)
        size, stacked = info.batch_size, bool(members)
        if weight_dim is None:
            rows = input if input_dim is None else input.movedim(input_dim, int(stacked))
            output = _linear(rows, weight, bias if bias_dim is None else None)
            if bias is None or bias_dim is None:
                return output, int(stacked)
            if input_dim is not None:
                output = output.movedim(int(stacked), 0)
            dims = input.dim() + (input_dim is None)
            return output + over_rows(bias.movedim(bias_dim, 0), dims), 0
        weight = stack(weight, weight_dim, size, stacked)
        bias = None if bias is None else stack(bias, bias_dim, size, stacked)
        if input_dim is None and not stacked:  # the same rows for all: their features side by side
            output = _linear(input, weight.flatten(0, 1), None if bias is None else bias.flatten())
            return unfold(output, size, -1, out_features), output.dim() - 1
        output = _linear(stack(input, input_dim, size, stacked), weight, bias)
        return unstack(output, size, members), 0


class LinearInputGrad(Function):
    """grad_output @ weight: linear in either argument."""

    @staticmethod
    def forward(grad_output: Tensor, weight: Tensor) -> Tensor:
        return _input_grad_op(grad_output, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if grad is None:
            return None, None
        grad_output, weight = ctx.saved_tensors
        return (
            _linear(grad, weight, None) if ctx.needs_input_grad[0] else None,
            _linear_weight_grad(grad_output, grad, False, weight.dim() == 3)[0]
            if ctx.needs_input_grad[1]
            else None,
        )

    @staticmethod
    def jvp(ctx: Any, grad_output_tangent: Tensor | None, weight_tangent: Tensor | None) -> Tensor | None:
        grad_output, weight = ctx.saved_tensors
        return add(
            None if grad_output_tangent is None else _linear_input_grad(grad_output_tangent, weight),
            None if weight_tangent is None else _linear_input_grad(grad_output, weight_tangent),
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Dim, Dim], grad_output: Tensor, weight: Tensor) -> tuple[Tensor, int]:
        grad_dim, weight_dim = in_dims
        members = member_shape(weight, weight_dim)[:-2]
        size, stacked = info.batch_size, bool(members)
        if grad_dim is not None and weight_dim is None:
            return _linear_input_grad(grad_output.movedim(grad_dim, int(stacked)), weight), int(stacked)
        grad_output = stack(grad_output, grad_dim, size, stacked)
        grad_input = _linear_input_grad(grad_output, stack(weight, weight_dim, size, stacked))
        return unstack(grad_input, size, members), 0


class LinearWeightGrad(Function):
    """grad_output.T @ input and, where `bias`, the sum of grad_output over its rows."""

    @staticmethod
    def forward(grad_output: Tensor, input: Tensor, bias: bool, stacked: bool) -> tuple[Tensor, Tensor]:
        return _weight_grad_op(grad_output, input, bias, stacked)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, bool, bool], output: tuple[Tensor, Tensor]
    ) -> None:
        save(ctx, inputs[0], inputs[1])
        ctx.bias, ctx.stacked = inputs[2:]
        if not ctx.bias:
            ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(
        ctx: Any, grad_weight: Tensor | None, grad_bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_output, input = ctx.saved_tensors
        needs_grad_output, needs_input = ctx.needs_input_grad[:2]
        through_grad_output = through_input = None
        if needs_grad_output and grad_weight is not None:
            through_grad_output = _linear(input, grad_weight, grad_bias)
        elif needs_grad_output and grad_bias is not None:
            through_grad_output = over_rows(grad_bias, grad_output.dim()).expand_as(grad_output)
        if needs_input and grad_weight is not None:
            through_input = _linear_input_grad(grad_output, grad_weight)
        return through_grad_output, through_input, None, None

    @staticmethod
    def jvp(
        ctx: Any, grad_output_tangent: Tensor | None, input_tangent: Tensor | None, *_: None
    ) -> tuple[Tensor | None, Tensor | None]:
        grad_output, input = ctx.saved_tensors
        if grad_output_tangent is None:
            grad_output_tangent = torch.zeros_like(grad_output)
        weight_tangent, bias_tangent = _linear_weight_grad(grad_output_tangent, input, ctx.bias, ctx.stacked)
        if input_tangent is not None:
            through_input = _linear_weight_grad(grad_output, input_tangent, False, ctx.stacked)[0]
            weight_tangent = weight_tangent + through_input
        return weight_tangent, bias_tangent if ctx.bias else None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Dim, Dim, None, None],
        grad_output: Tensor,
        input: Tensor,
        bias: bool,
        stacked: bool,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        grad_dim, input_dim = in_dims[:2]
        size, grad_shape = info.batch_size, member_shape(grad_output, grad_dim)
        if grad_dim is not None and input_dim is None and not stacked:  # the features side by side
            side_by_side = grad_output.movedim(grad_dim, -2).flatten(-2)
            grad_weight, grad_bias = _linear_weight_grad(side_by_side, input, bias, False)
            grad_bias = unfold(grad_bias, size, 0, grad_shape[-1] if bias else 0)
            return (unfold(grad_weight, size, 0, grad_shape[-1]), grad_bias), (0, 0)
        grad_output, input = (
            stack(t, d, size, stacked) for t, d in ((grad_output, grad_dim), (input, input_dim))
        )
        grad_weight, grad_bias = _linear_weight_grad(grad_output, input, bias, True)
        members = grad_shape[: int(stacked)]
        return (unstack(grad_weight, size, members), unstack(grad_bias, size, members)), (0, 0)


_linear = differentiable(Linear, tensors=3, direct=_linear_op)
_linear_input_grad = differentiable(LinearInputGrad, tensors=2, direct=_input_grad_op)
_linear_weight_grad = differentiable(LinearWeightGrad, tensors=2, direct=_weight_grad_op)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias, as torch.nn.functional.linear.

    input: (..., in_features); weight: (out_features, in_features) or (in_features,); bias: (out_features,) or
    (); all float32, float64, bfloat16 or float16. Returns (..., out_features), without its last dimension
    where weight has only one.

    Raises TypeError where an argument is not a tensor; RuntimeError where shapes or dtypes do not fit.
    """
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(linear, (input, weight, bias), input, weight, bias)
    tensors = isinstance(input, Tensor) and isinstance(weight, Tensor)
    if not (tensors and (bias is None or isinstance(bias, Tensor))):
        raise not_tensors("linear", input=input, weight=weight, bias=bias)
    if any_autocast():
        input, weight, bias = autocast(input, weight, bias)
    dimensions = weight.dim()
    if dimensions > 2:
        raise RuntimeError(f"linear: weight must have 2 dimensions (out, in), got {list(weight.shape)}")
    if dimensions == 1:
        bias = None if bias is None else bias.reshape(1)
        return _linear(input, weight.unsqueeze(0), bias).squeeze(-1)
    return _linear(input, weight, bias)
