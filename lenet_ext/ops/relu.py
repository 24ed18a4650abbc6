"""relu: fake kernels, autograd Functions, public function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import increment_version
from torch.overrides import handle_torch_function, has_torch_function_variadic

from lenet_ext.ops import _fake
from lenet_ext.ops._arguments import not_tensors
from lenet_ext.ops._autograd import differentiable, save, traced_in_python
from lenet_ext.ops._batching import batch_first

_relu_op = torch.ops.lenet_ext.relu.default
_relu_inplace_op = torch.ops.lenet_ext.relu_.default
_relu_grad_op = torch.ops.lenet_ext.relu_grad.default


@_fake.register("relu")
def _fake_relu(input: Tensor) -> Tensor:
    return _fake.empty(input, input.shape)


@_fake.register("relu_")
def _fake_relu_inplace(input: Tensor) -> None:
    pass


@_fake.register("relu_grad")
def _fake_relu_grad(grad_output: Tensor, output: Tensor) -> Tensor:
    return _fake.empty(output, output.shape)


class ReLU(Function):
    """max(input, 0); the gradient needs the output alone."""

    @staticmethod
    def forward(input: Tensor) -> Tensor:
        return _relu_op(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        save(ctx, output)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None) -> Tensor | None:
        (output,) = ctx.saved_tensors
        return None if grad_output is None else _relu_grad(grad_output, output)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return _relu_grad(tangent, output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], input: Tensor) -> tuple[Tensor, int]:
        return _relu(input), in_dims[0]


class ReLUInplace(Function):
    """The same, written over its input."""

    @staticmethod
    def forward(input: Tensor) -> Tensor:
        _relu_inplace_op(input)
        increment_version(input)  # an operator bound through the stable ABI leaves that to its caller
        return input

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.mark_dirty(output)
        save(ctx, output)

    backward = staticmethod(ReLU.backward)


class ReLUGrad(Function):
    """`grad_output` where `output` is positive: linear in the first, of no slope in the second."""

    @staticmethod
    def forward(grad_output: Tensor, output: Tensor) -> Tensor:
        return _relu_grad_op(grad_output, output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        save(ctx, inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None]:
        if grad is None or not ctx.needs_input_grad[0]:
            return None, None
        (output,) = ctx.saved_tensors
        return _relu_grad(grad, output), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, output_tangent: Tensor | None) -> Tensor:
        (output,) = ctx.saved_tensors
        return torch.zeros_like(output) if tangent is None else _relu_grad(tangent, output)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], grad_output: Tensor, output: Tensor
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        grad = _relu_grad(batch_first(grad_output, in_dims[0], size), batch_first(output, in_dims[1], size))
        return grad, 0


_view_of = torch._C._autograd._get_creation_meta  # how a view was made

_relu = differentiable(ReLU, tensors=1, direct=_relu_op)
_relu_inplace = differentiable(ReLUInplace, tensors=1)
_relu_grad = differentiable(ReLUGrad, tensors=2, direct=_relu_grad_op)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0), element by element, as torch.nn.functional.relu; NaN stays NaN.

    input: any shape, float32, float64, bfloat16 or float16. Returns a new tensor of the same shape in the
    memory format of `input`, or `input` itself, overwritten, where `inplace` is true.

    Raises TypeError where `input` is not a tensor; RuntimeError for another dtype, and with `inplace` for a
    leaf that requires a gradient, or a view of one, for an expanded tensor, and for what torch lets nobody
    write: inference tensors outside of inference mode, one of several views that a function returned, ...
    """
    if has_torch_function_variadic(input):
        return handle_torch_function(relu, (input,), input, inplace)
    if not isinstance(input, Tensor):
        raise not_tensors("relu", input=input)
    if not inplace:
        return _relu(input)
    if traced_in_python():
        return input.copy_(_relu(input))
    _let_torch_refuse(input)
    base = input if input._base is None else input._base
    if base.is_leaf and base.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "relu: with inplace=True, input must not be (part of) a leaf that requires a gradient"
        )
    return _relu_inplace(input)


def _let_torch_refuse(written: Tensor) -> None:
    """Raises torch's own error for a tensor that it lets nobody write; it would notice too late here."""
    if written.is_inference():
        if not torch.is_inference_mode_enabled():
            written.as_strided((0,), (1,)).zero_()  # of no element, or torch would write first
        return
    base = written._base
    if base is None or not torch.is_grad_enabled() or (base.is_leaf and base.requires_grad):
        return
    if (base.requires_grad or written.requires_grad) and _view_of(
        written
    ) != torch._C._autograd.CreationMeta.DEFAULT:
        torch.relu_(written)
