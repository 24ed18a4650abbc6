"""Takes each call through autograd the cheapest way that is right.

A Function is written once, in the setup_context style with a `vmap` and a `jvp` rule, whose `forward` only
calls the operator. `differentiable` turns it into a plain function that picks, at each call,

- the Function itself while a torch.func transform is active (about 22 us a call),
- its ctx-style twin where a gradient or a tangent is wanted (about 5 us more than the operator),
- the operator alone otherwise.

torch.compile follows the twin without the `jvp`, which it refuses. In a transform it would see the operator
alone and take its gradient for zero, so those calls are left out of what it compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd import Function, forward_ad
from torch.compiler import is_dynamo_compiling

_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
_grad_enabled = torch.is_grad_enabled
# What torch.autograd.grad(is_grads_batched=True) hands to a backward; no transform is active then.
batched_gradient: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor


def differentiable(
    function: type[Function], tensors: int, direct: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """A function with the arguments of `function.forward`, the first `tensors` of them tensors or None.

    `direct` replaces `function.forward` where no gradient is wanted and less work does.
    """
    direct = direct or function.forward
    direct_in_c = getattr(direct, "_op", direct)  # what an operator calls, without a line of Python
    full = function.apply
    traced = _ctx_style(function, "backward").apply
    # torch.autograd.Function.apply would repeat in Python the choice that is made here.
    fast = super(Function, _ctx_style(function, "backward", "jvp")).apply  # type: ignore[misc]

    @_disable_dynamo  # torch.compiler.disable would import the compiler now
    def uncompiled(*args: Any) -> Any:
        return full(*args)

    def call(*args: Any) -> Any:
        if _transforms_active():
            return uncompiled(*args) if is_dynamo_compiling() else full(*args)
        if forward_ad._current_level >= 0:
            return uncompiled(*args) if is_dynamo_compiling() else fast(*args)
        if _grad_enabled():
            for tensor in args[:tensors]:
                if tensor is not None and tensor.requires_grad:
                    return traced(*args) if is_dynamo_compiling() else fast(*args)
        return direct(*args) if is_dynamo_compiling() else direct_in_c(*args)

    return call


def transformed() -> bool:
    """Whether a torch.func transform or forward-mode AD is on."""
    return _transforms_active() or forward_ad._current_level >= 0


def traced_in_python() -> bool:
    """Whether torch.func, torch.compile or forward-mode AD, which follow no in-place operator, is on."""
    return transformed() or is_dynamo_compiling()


def followed() -> bool:
    """Whether anything follows the operators called now: false in a backward without create_graph."""
    return _grad_enabled() or transformed()


def save(ctx: Any, *tensors: Tensor) -> None:
    """Keeps `tensors` for `backward` and `jvp`, which get None for each gradient or tangent that is zero."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)
    if forward_ad._current_level >= 0:
        ctx.save_for_forward(*tensors)


def add(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """The sum of two tangents, None standing for zero."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _ctx_style(function: type[Function], *rules: str) -> type[Function]:
    """`function` with its forward in the other style, and of its further methods those named in `rules`."""

    operator, setup_context = function.forward, function.setup_context

    def forward(ctx: Any, *args: Any) -> Any:
        output = operator(*args)
        setup_context(ctx, args, output)
        return output

    methods = {name: staticmethod(getattr(function, name)) for name in rules}
    return type(function.__name__, (Function,), {"forward": staticmethod(forward), **methods})
