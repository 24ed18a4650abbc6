"""linear: fake kernels, autograd Functions, public function."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_variadic

from lenet_ext.ops import _fake
from lenet_ext.ops._arguments import autocast, not_tensors
from lenet_ext.ops._autograd import add, differentiable, followed, save
from lenet_ext.ops._batching import batch_first

_linear_op = torch.ops.lenet_ext.linear.default
_input_grad_op = torch.ops.lenet_ext.linear_input_grad.default
_weight_grad_op = torch.ops.lenet_ext.linear_weight_grad.default
_grads_op = torch.ops.lenet_ext.linear_grads.default

Dim: TypeAlias = int | None


@_fake.register("linear")
def _fake_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


@_fake.register("linear_input_grad")
def _fake_input_grad(grad_output: Tensor, weight: Tensor) -> Tensor:
    return grad_output.new_empty((*grad_output.shape[:-1], weight.shape[1]))


@_fake.register("linear_weight_grad")
def _fake_weight_grad(grad_output: Tensor, input: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
    out_features = grad_output.shape[-1]
    grad_weight = grad_output.new_empty(out_features, input.shape[-1])
    return grad_weight, _fake.bias_gradient(grad_output, out_features, bias)


@_fake.register("linear_grads")
def _fake_grads(
    grad_output: Tensor, input: Tensor, weight: Tensor, bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_bias = _fake.bias_gradient(grad_output, weight.shape[0], bias)
    return grad_output.new_empty(input.shape), grad_output.new_empty(weight.shape), grad_bias


def _rows(batched: Tensor) -> Tensor:
    """(batch, ..., features) as (batch, rows, features)."""
    return batched.unsqueeze(1).flatten(1, -2)


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
            grad_weight, grad_bias = _linear_weight_grad(grad_output, input, needs_bias)
        elif needs_bias:
            grad_bias = grad_output.flatten(0, -2).sum(0) if grad_output.dim() > 1 else grad_output
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
        size = info.batch_size
        input = batch_first(input, input_dim, size)
        if weight_dim is None and bias_dim is None:
            return _linear(input, weight, bias), 0
        output = _rows(input) @ batch_first(weight, weight_dim, size).mT
        if bias is not None:
            output = output + batch_first(bias, bias_dim, size).unsqueeze(1)
        return output.reshape(*input.shape[:-1], output.shape[-1]), 0


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
            _linear_weight_grad(grad_output, grad, False)[0] if ctx.needs_input_grad[1] else None,
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
        size = info.batch_size
        grad_output = batch_first(grad_output, in_dims[0], size)
        if in_dims[1] is None:
            return _linear_input_grad(grad_output, weight), 0
        grad_input = _rows(grad_output) @ batch_first(weight, in_dims[1], size)
        return grad_input.reshape(*grad_output.shape[:-1], grad_input.shape[-1]), 0


class LinearWeightGrad(Function):
    """grad_output.T @ input and, where `bias`, the sum of grad_output over its rows."""

    @staticmethod
    def forward(grad_output: Tensor, input: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
        return _weight_grad_op(grad_output, input, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
        save(ctx, inputs[0], inputs[1])
        ctx.bias = inputs[2]
        if not ctx.bias:
            ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(
        ctx: Any, grad_weight: Tensor | None, grad_bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None]:
        grad_output, input = ctx.saved_tensors
        needs_grad_output, needs_input, _ = ctx.needs_input_grad
        through_grad_output = through_input = None
        if needs_grad_output and grad_weight is not None:
            through_grad_output = _linear(input, grad_weight, grad_bias)
        elif needs_grad_output and grad_bias is not None:
            through_grad_output = grad_bias.expand_as(grad_output)
        if needs_input and grad_weight is not None:
            through_input = _linear_input_grad(grad_output, grad_weight)
        return through_grad_output, through_input, None

    @staticmethod
    def jvp(
        ctx: Any, grad_output_tangent: Tensor | None, input_tangent: Tensor | None, _: None
    ) -> tuple[Tensor | None, Tensor | None]:
        grad_output, input = ctx.saved_tensors
        if grad_output_tangent is None:
            grad_output_tangent = torch.zeros_like(grad_output)
        weight_tangent, bias_tangent = _linear_weight_grad(grad_output_tangent, input, ctx.bias)
        if input_tangent is not None:
            weight_tangent = weight_tangent + _linear_weight_grad(grad_output, input_tangent, False)[0]
        return weight_tangent, bias_tangent if ctx.bias else None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Dim, Dim, None], grad_output: Tensor, input: Tensor, bias: bool
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        size = info.batch_size
        grad_output, input = (
            batch_first(t, d, size) for t, d in zip((grad_output, input), in_dims, strict=False)
        )
        grad_rows = _rows(grad_output)
        grad_weight = grad_rows.mT @ _rows(input)
        return (grad_weight, grad_rows.sum(1) if bias else grad_rows.new_empty(size, 0)), (0, 0)


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
    input, weight, bias = autocast(input, weight, bias)
    if weight.dim() == 1:
        bias = None if bias is None else bias.reshape(1)
        return _linear(input, weight.unsqueeze(0), bias).squeeze(-1)
    return _linear(input, weight, bias)
