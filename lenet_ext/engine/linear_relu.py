"""linear_relu: a stage of the fused engine as a function."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from lenet_ext.engine.layers import Activation, Linear
from lenet_ext.engine.network import Network
from lenet_ext.engine.operators import run_block
from lenet_ext.ops._arguments import autocast, not_tensors

_PROGRAMS = {
    has_bias: Network.chain(
        "linear_relu", (Linear(), (0, 1) if has_bias else (0,)), (Activation("relu"), ())
    ).program()
    for has_bias in (False, True)
}


def linear_relu(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """relu(linear(input, weight, bias)).

    input: (..., in_features); weight: (out_features, in_features) or (in_features,); bias: (out_features,) or
    (); all float32, float64, bfloat16 or float16. Returns (..., out_features), without its last dimension
    where weight has only one. One kernel forward and one backward; gradients of higher order, torch.func and
    forward-mode AD go through the two functions.

    Raises TypeError where an argument is not a tensor; RuntimeError where shapes or dtypes do not fit.
    """
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(linear_relu, (input, weight, bias), input, weight, bias)
    tensors = isinstance(input, Tensor) and isinstance(weight, Tensor)
    if not (tensors and (bias is None or isinstance(bias, Tensor))):
        raise not_tensors("linear_relu", input=input, weight=weight, bias=bias)
    input, weight, bias = autocast(input, weight, bias)
    if input.dim() == 0:
        raise RuntimeError("linear_relu: input must have at least 1 dimension")
    vector = weight.dim() == 1
    if vector:
        weight, bias = weight.unsqueeze(0), None if bias is None else bias.reshape(1)
    rows = input
    if input.dim() != 2:
        rows = input.unsqueeze(0) if input.dim() == 1 else input.flatten(0, -2)
    output = run_block(_PROGRAMS[bias is not None], rows, weight, bias)
    if rows is not input:
        output = output.reshape(*input.shape[:-1], weight.shape[0])
    return output.squeeze(-1) if vector else output
