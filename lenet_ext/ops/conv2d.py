"""conv2d: fake kernels, autograd Functions, public function.

The convolution and its two gradients are bilinear, and each one's gradients are the other two:

    output      = conv2d(input, weight) + bias
    grad_input  = conv2d_input_grad(grad_output, weight)
    grad_weight = conv2d_weight_grad(grad_output, input)

conv2d_grads is both gradients in one call, for a backward that is not differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_variadic

from lenet_ext.ops import _fake
from lenet_ext.ops._arguments import Pair, plane
from lenet_ext.ops._autograd import add, differentiable, followed, save
from lenet_ext.ops._batching import fold, member_shape, unfold
from lenet_ext.ops._conv2d_arguments import Geometry, checked

_conv2d_op = torch.ops.lenet_ext.conv2d.default
_input_grad_op = torch.ops.lenet_ext.conv2d_input_grad.default
_weight_grad_op = torch.ops.lenet_ext.conv2d_weight_grad.default
_grads_op = torch.ops.lenet_ext.conv2d_grads.default

Dim: TypeAlias = int | None


@_fake.register("conv2d")
def _fake_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, *geometry: int) -> Tensor:
    stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w, _ = geometry
    batch, _, height, width = input.shape
    out_channels, _, kernel_height, kernel_width = weight.shape
    out_height = (height + pad_top + pad_bottom - dilation_h * (kernel_height - 1) - 1) // stride_h + 1
    out_width = (width + pad_left + pad_right - dilation_w * (kernel_width - 1) - 1) // stride_w + 1
    return _fake.empty(input, (batch, out_channels, out_height, out_width))


@_fake.register("conv2d_input_grad")
def _fake_input_grad(
    grad_output: Tensor, weight: Tensor, in_height: int, in_width: int, *geometry: int
) -> Tensor:
    channels = weight.shape[1] * geometry[-1]
    return _fake.empty(grad_output, (grad_output.shape[0], channels, in_height, in_width))


@_fake.register("conv2d_weight_grad")
def _fake_weight_grad(
    grad_output: Tensor, input: Tensor, kernel_height: int, kernel_width: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    *_, groups, bias = rest
    out_channels = grad_output.shape[1]
    grad_weight = input.new_empty(out_channels, input.shape[1] // groups, kernel_height, kernel_width)
    return grad_weight, _fake.bias_gradient(grad_output, out_channels, bias)


@_fake.register("conv2d_grads")
def _fake_grads(
    grad_output: Tensor, input: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    grad_input = _fake.empty(grad_output, input.shape)
    grad_weight = input.new_empty(weight.shape)
    return grad_input, grad_weight, _fake.bias_gradient(grad_output, weight.shape[0], rest[-1])


class Conv2d(Function):
    """The convolution: bilinear in input and weight, linear in bias."""

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        return _conv2d_op(input, weight, bias, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        save(ctx, inputs[0], inputs[1])
        ctx.geometry = inputs[3]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_output is None:
            return None, None, None, None
        input, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_input = grad_weight = grad_bias = None
        if needs_input and needs_weight and not followed():
            grads = _grads_op(grad_output, input, weight, *ctx.geometry, needs_bias)
            return *(grads if needs_bias else (*grads[:2], None)), None
        if needs_input:
            grad_input = _input_grad(grad_output, weight, plane(input), ctx.geometry)
        if needs_weight:
            grad_weight, grad_bias = _weight_grad(grad_output, input, plane(weight), ctx.geometry, needs_bias)
        elif needs_bias:
            grad_bias = grad_output.sum((0, 2, 3))
        return grad_input, grad_weight, grad_bias if needs_bias else None, None

    @staticmethod
    def jvp(
        ctx: Any,
        input_tangent: Tensor | None,
        weight_tangent: Tensor | None,
        bias_tangent: Tensor | None,
        *_: None,
    ) -> Tensor | None:
        input, weight = ctx.saved_tensors
        if bias_tangent is not None and weight_tangent is None:
            weight_tangent = torch.zeros_like(weight)
        return add(
            None if input_tangent is None else _conv2d(input_tangent, weight, None, ctx.geometry),
            None if weight_tangent is None else _conv2d(input, weight_tangent, bias_tangent, ctx.geometry),
        )

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Dim, ...],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
    ) -> tuple[Tensor, int]:
        input_dim, weight_dim, bias_dim = in_dims[:3]
        size = info.batch_size
        if bias is not None and member_shape(bias, bias_dim) != member_shape(weight, weight_dim)[:1]:
            raise RuntimeError("conv2d: bias must have one element for each output channel")
        if weight_dim is None:
            images = fold(input, input_dim, size, 0) if input_dim is not None else input
            output = _conv2d(images, weight, bias if bias_dim is None else None, geometry)
            if input_dim is not None:
                output = unfold(output, size, 0, member_shape(input, input_dim)[0])
            if bias is not None and bias_dim is not None:
                output = output + bias.movedim(bias_dim, 0)[:, None, :, None, None]
            return output, 0
        *shape, groups = geometry
        channels = member_shape(weight, weight_dim)[0]
        weight, bias = fold(weight, weight_dim, size, 0), fold(bias, bias_dim, size, 0)
        if input_dim is None and groups == 1:
            return unfold(_conv2d(input, weight, bias, (*shape, 1)), size, 1, channels), 1
        output = _conv2d(fold(input, input_dim, size, 1), weight, bias, (*shape, groups * size))
        return unfold(output, size, 1, channels), 1


class Conv2dInputGrad(Function):
    """The convolution's gradient with respect to its input: bilinear in grad_output and weight."""

    @staticmethod
    def forward(grad_output: Tensor, weight: Tensor, input_size: Pair, geometry: Geometry) -> Tensor:
        return _input_grad_op(grad_output, weight, *input_size, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        save(ctx, inputs[0], inputs[1])
        ctx.input_size, ctx.geometry = inputs[2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None
        grad_output, weight = ctx.saved_tensors
        through_grad_output = through_weight = None
        if ctx.needs_input_grad[0]:
            through_grad_output = _conv2d(grad, weight, None, ctx.geometry)
        if ctx.needs_input_grad[1]:
            through_weight, _ = _weight_grad(grad_output, grad, plane(weight), ctx.geometry, False)
        return through_grad_output, through_weight, None, None

    @staticmethod
    def jvp(
        ctx: Any, grad_output_tangent: Tensor | None, weight_tangent: Tensor | None, *_: None
    ) -> Tensor | None:
        grad_output, weight = ctx.saved_tensors
        arguments = (ctx.input_size, ctx.geometry)
        return add(
            None if grad_output_tangent is None else _input_grad(grad_output_tangent, weight, *arguments),
            None if weight_tangent is None else _input_grad(grad_output, weight_tangent, *arguments),
        )

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Dim, ...],
        grad_output: Tensor,
        weight: Tensor,
        input_size: Pair,
        geometry: Geometry,
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        if in_dims[1] is None:
            grad_input = _input_grad(fold(grad_output, in_dims[0], size, 0), weight, input_size, geometry)
            return unfold(grad_input, size, 0, member_shape(grad_output, in_dims[0])[0]), 0
        *shape, groups = geometry
        channels = member_shape(weight, in_dims[1])[1] * groups
        grad_output, weight = fold(grad_output, in_dims[0], size, 1), fold(weight, in_dims[1], size, 0)
        grad_input = _input_grad(grad_output, weight, input_size, (*shape, groups * size))
        return unfold(grad_input, size, 1, channels), 1


class Conv2dWeightGrad(Function):
    """The gradients with respect to weight (bilinear in both tensors) and bias (linear in grad_output)."""

    @staticmethod
    def forward(
        grad_output: Tensor, input: Tensor, kernel_size: Pair, geometry: Geometry, bias: bool
    ) -> tuple[Tensor, Tensor]:
        return _weight_grad_op(grad_output, input, *kernel_size, *geometry, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        save(ctx, inputs[0], inputs[1])
        ctx.kernel_size, ctx.geometry, ctx.bias = inputs[2:]
        if not ctx.bias:
            ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad_weight: Tensor | None, grad_bias: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_output, input = ctx.saved_tensors
        through_grad_output = through_input = None
        if ctx.needs_input_grad[0]:
            if grad_weight is not None:
                through_grad_output = _conv2d(input, grad_weight, grad_bias, ctx.geometry)
            elif grad_bias is not None:
                through_grad_output = grad_bias[:, None, None].expand_as(grad_output)
        if ctx.needs_input_grad[1] and grad_weight is not None:
            through_input = _input_grad(grad_output, grad_weight, plane(input), ctx.geometry)
        return through_grad_output, through_input, None, None, None

    @staticmethod
    def jvp(
        ctx: Any, grad_output_tangent: Tensor | None, input_tangent: Tensor | None, *_: None
    ) -> tuple[Tensor | None, Tensor | None]:
        grad_output, input = ctx.saved_tensors
        arguments = (ctx.kernel_size, ctx.geometry)
        if grad_output_tangent is None:
            grad_output_tangent = torch.zeros_like(grad_output)
        weight_tangent, bias_tangent = _weight_grad(grad_output_tangent, input, *arguments, ctx.bias)
        if input_tangent is not None:
            weight_tangent = weight_tangent + _weight_grad(grad_output, input_tangent, *arguments, False)[0]
        return weight_tangent, bias_tangent if ctx.bias else None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Dim, ...],
        grad_output: Tensor,
        input: Tensor,
        kernel_size: Pair,
        geometry: Geometry,
        bias: bool,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        *shape, groups = geometry
        size, channels = info.batch_size, member_shape(grad_output, in_dims[0])[1]
        grad_output, input = fold(grad_output, in_dims[0], size, 1), fold(input, in_dims[1], size, 1)
        grad_weight, grad_bias = _weight_grad(grad_output, input, kernel_size, (*shape, groups * size), bias)
        grad_bias = unfold(grad_bias, size, 0, channels if bias else 0)
        return (unfold(grad_weight, size, 0, channels), grad_bias), (0, 0)


_conv2d = differentiable(Conv2d, tensors=3)
_input_grad = differentiable(Conv2dInputGrad, tensors=2)
_weight_grad = differentiable(Conv2dWeightGrad, tensors=2)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """2-D convolution (cross-correlation), as torch.nn.functional.conv2d.

    input: (N, in_channels, H, W) or (in_channels, H, W); weight: (out_channels, in_channels / groups,
    kernel_height, kernel_width); bias: (out_channels,); all float32, float64, bfloat16 or float16. stride,
    padding and dilation are in pixels: an int or (height, width); padding may also be "valid" (none) or
    "same" (as much as keeps H and W, with the odd pixel at the bottom and the right). float32 with stride 1
    and 3 or 5 kernel rows may be computed by Winograd's method, with errors of a few times those of direct
    sums (docs/kernels.md).

    Returns (N, out_channels, out_height, out_width), or the same without N, in the memory format of `input`.
    Raises TypeError where an argument has the wrong type; RuntimeError where shapes, dtypes or values do not
    fit.
    """
    if has_torch_function_variadic(input, weight, bias):
        tensors = (input, weight, bias)
        return handle_torch_function(conv2d, tensors, *tensors, stride, padding, dilation, groups)
    input, weight, bias, geometry = checked("conv2d", input, weight, bias, stride, padding, dilation, groups)
    if input.dim() == 3:
        return _conv2d(input.unsqueeze(0), weight, bias, geometry).squeeze(0)
    return _conv2d(input, weight, bias, geometry)
