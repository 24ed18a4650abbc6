"""max_pool2d: fake kernels, autograd Functions, public function.

The kernels remember the argmax of each window, the tap (row * kernel_width + column) where its maximum lies,
in one byte where that is enough; flat positions in the input are made from it only where they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_variadic

from lenet_ext.ops import _fake
from lenet_ext.ops._arguments import Pair, not_tensors, pair, plane
from lenet_ext.ops._autograd import differentiable, save
from lenet_ext.ops._batching import fold, member_shape, unfold

_max_pool2d_op = torch.ops.lenet_ext.max_pool2d.default
_indices_op = torch.ops.lenet_ext.max_pool2d_indices.default
_input_grad_op = torch.ops.lenet_ext.max_pool2d_input_grad.default

Dim: TypeAlias = int | None
# kernel_height, kernel_width, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w: arguments of all
# three operators.
Geometry: TypeAlias = tuple[int, int, int, int, int, int, int, int]
LARGEST_BYTE_WINDOW = 256


def _output_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    windows = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    # A window that would start in the padding after the input is left out.
    return windows - 1 if ceil_mode and (windows - 1) * stride >= size + padding else windows


@_fake.register("max_pool2d")
def _fake_max_pool2d(
    input: Tensor,
    kernel_height: int,
    kernel_width: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    ceil_mode: bool,
    return_argmax: bool,
) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = input.shape
    out_height = _output_size(height, kernel_height, stride_h, pad_h, dilation_h, ceil_mode)
    out_width = _output_size(width, kernel_width, stride_w, pad_w, dilation_w, ceil_mode)
    shape = (batch, channels, out_height, out_width)
    dtype = torch.uint8 if kernel_height * kernel_width <= LARGEST_BYTE_WINDOW else torch.int32
    argmax = _fake.empty(input, shape, dtype) if return_argmax else input.new_empty(0, dtype=torch.uint8)
    return _fake.empty(input, shape), argmax


@_fake.register("max_pool2d_indices")
def _fake_indices(argmax: Tensor, *sizes: int) -> Tensor:
    return _fake.empty(argmax, argmax.shape, torch.int64)


@_fake.register("max_pool2d_input_grad")
def _fake_input_grad(
    grad_output: Tensor, argmax: Tensor, in_height: int, in_width: int, *geometry: int
) -> Tensor:
    return _fake.empty(grad_output, (*grad_output.shape[:2], in_height, in_width))


class MaxPool2d(Function):
    """(maxima, argmax): piecewise linear, each output is an element of the input. Always returns argmax."""

    @staticmethod
    def forward(
        input: Tensor, geometry: Geometry, ceil_mode: bool, return_argmax: bool
    ) -> tuple[Tensor, Tensor]:
        return _max_pool2d_op(input, *geometry, ceil_mode, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        save(ctx, output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.sizes = plane(inputs[0]), inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Tensor | None, None, None, None]:
        if grad_output is None:
            return None, None, None, None
        (argmax,) = ctx.saved_tensors
        return _input_grad(grad_output, argmax, *ctx.sizes), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> tuple[Tensor, None]:
        (argmax,) = ctx.saved_tensors
        return _gather(tangent, argmax, *ctx.sizes), None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Dim, ...],
        input: Tensor,
        geometry: Geometry,
        ceil_mode: bool,
        return_argmax: bool,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        size, images = info.batch_size, member_shape(input, in_dims[0])[0]
        output, argmax = _max_pool2d(fold(input, in_dims[0], size, 0), geometry, ceil_mode, True)
        return (unfold(output, size, 0, images), unfold(argmax, size, 0, images)), (0, 0)


class MaxPool2dInputGrad(Function):
    """Adds each element of grad_output to its window's maximum: linear."""

    @staticmethod
    def forward(grad_output: Tensor, argmax: Tensor, input_size: Pair, geometry: Geometry) -> Tensor:
        return _input_grad_op(grad_output, argmax, *input_size, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        save(ctx, inputs[1])
        ctx.sizes = inputs[2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if grad is None:
            return None, None, None, None
        (argmax,) = ctx.saved_tensors
        return _gather(grad, argmax, *ctx.sizes), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (argmax,) = ctx.saved_tensors
        return _input_grad(tangent, argmax, *ctx.sizes)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Dim, ...],
        grad_output: Tensor,
        argmax: Tensor,
        input_size: Pair,
        geometry: Geometry,
    ) -> tuple[Tensor, int]:
        size, images = info.batch_size, member_shape(grad_output, in_dims[0])[0]
        grad_output, argmax = fold(grad_output, in_dims[0], size, 0), fold(argmax, in_dims[1], size, 0)
        return unfold(_input_grad(grad_output, argmax, input_size, geometry), size, 0, images), 0


class MaxPool2dIndices(Function):
    """Flat positions from the argmax: not differentiable, a Function for its vmap rule."""

    @staticmethod
    def forward(argmax: Tensor, input_size: Pair, geometry: Geometry) -> Tensor:
        return _indices_op(argmax, *input_size, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Dim, ...], argmax: Tensor, input_size: Pair, geometry: Geometry
    ) -> tuple[Tensor, int]:
        size, images = info.batch_size, member_shape(argmax, in_dims[0])[0]
        return unfold(_indices(fold(argmax, in_dims[0], size, 0), input_size, geometry), size, 0, images), 0


def _without_gradient(
    input: Tensor, geometry: Geometry, ceil_mode: bool, return_argmax: bool
) -> tuple[Tensor, Tensor]:
    return _max_pool2d_op(input, *geometry, ceil_mode, return_argmax)


_max_pool2d = differentiable(MaxPool2d, tensors=1, direct=_without_gradient)
_input_grad = differentiable(MaxPool2dInputGrad, tensors=1)
_indices = differentiable(MaxPool2dIndices, tensors=1)


def _gather(input: Tensor, argmax: Tensor, input_size: Pair, geometry: Geometry) -> Tensor:
    """The element of `input` at each window's maximum: the transpose of MaxPool2dInputGrad."""
    indices = _indices(argmax, input_size, geometry)
    batch, channels, height, width = input.shape
    # reshape, not flatten: torch.autograd.grad(is_grads_batched=True) knows no rule for the latter.
    planes = input.reshape(batch, channels, height * width)
    return planes.gather(2, indices.reshape(batch, channels, indices.shape[2] * indices.shape[3])).reshape(
        indices.shape
    )


def max_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """2-D max-pooling, as torch.nn.functional.max_pool2d.

    input: (N, C, H, W) or (C, H, W), float32, float64, bfloat16 or float16. kernel_size, stride (default:
    kernel_size), padding (of -inf) and dilation are in pixels: an int or (height, width). The first of equal
    maxima in scan order counts, and NaN is larger than anything.

    Returns (N, C, out_height, out_width), or the same without N, in the memory format of `input`; with
    `return_indices` a pair: that, and the int64 positions h * W + w of the maxima.
    Raises TypeError where an argument has the wrong type; RuntimeError where shapes, dtypes or values do not
    fit.
    """
    if has_torch_function_variadic(input):
        sizes = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        return handle_torch_function(max_pool2d, (input,), input, *sizes)
    if not isinstance(input, Tensor):
        raise not_tensors("max_pool2d", input=input)
    kernel_size = pair("max_pool2d", "kernel_size", kernel_size)
    geometry = (
        *kernel_size,
        *(kernel_size if stride is None or stride in ([], ()) else pair("max_pool2d", "stride", stride)),
        *pair("max_pool2d", "padding", padding),
        *pair("max_pool2d", "dilation", dilation),
    )
    batched = input.unsqueeze(0) if input.dim() == 3 else input
    output, argmax = _max_pool2d(batched, geometry, ceil_mode, return_indices)
    if return_indices:
        indices = _indices(argmax, plane(batched), geometry)
        return (output, indices) if batched is input else (output.squeeze(0), indices.squeeze(0))
    return output if batched is input else output.squeeze(0)
