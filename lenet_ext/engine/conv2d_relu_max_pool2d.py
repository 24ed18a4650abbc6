"""conv2d_relu_max_pool2d: a stage of the fused engine as a function.

The engine computes a few images at a time, so that what lies between convolution and pool stays in the
cache and is never held as a whole. For backward it keeps the pooled output, and each maximum's place in its
window, in a byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.overrides import handle_torch_function, has_torch_function_variadic

from lenet_ext.engine.layers import Activation, Conv2d, MaxPool2d
from lenet_ext.engine.network import Network
from lenet_ext.engine.operators import run_block
from lenet_ext.ops._arguments import Pair, pair
from lenet_ext.ops._autograd import transformed
from lenet_ext.ops._conv2d_arguments import checked
from lenet_ext.ops._fork import serial_in_forked_child

OPERATOR = "conv2d_relu_max_pool2d"


def conv2d_relu_max_pool2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    pool_size: int | Sequence[int] = 2,
    pool_stride: int | Sequence[int] | None = None,
) -> Tensor:
    """max_pool2d(relu(conv2d(input, ...)), pool_size, pool_stride).

    The arguments of the convolution are those of torch.nn.functional.conv2d. pool_size and pool_stride
    (default: pool_size): an int or (height, width). bfloat16 and float16 are rounded once, at the end: a
    maximum is that of the sums before rounding. With stride 1 and 3 or 5 kernel rows all but float64 may be
    computed by Winograd's method, with errors of a few times those of direct sums (docs/kernels.md).

    Returns (N, out_channels, pooled_height, pooled_width), or the same without N, in the memory format of
    `input`. One kernel forward and one backward; gradients of higher order, torch.func and forward-mode AD go
    through the three functions. Raises TypeError where an argument has the wrong type; RuntimeError where
    shapes, dtypes or values do not fit.
    """
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            conv2d_relu_max_pool2d,
            (input, weight, bias),
            *(input, weight, bias, stride, padding, dilation, groups),
            pool_size=pool_size,
            pool_stride=pool_stride,
        )
    input, weight, bias, geometry = checked(OPERATOR, input, weight, bias, stride, padding, dilation, groups)
    size = pair(OPERATOR, "pool_size", pool_size)
    step = size if pool_stride is None else pair(OPERATOR, "pool_stride", pool_stride)
    images = input.unsqueeze(0) if input.dim() == 3 else input
    key = (geometry, bias is not None, size, step)
    program = _programs.get(key)
    if program is None:
        program = _programs[key] = _program(*key)
    output = run_block(program, images, weight, bias)
    # The engine's output is contiguous. The strides are looked at first, since the suggestion takes longer.
    if (
        not transformed()
        and images.stride(1) <= images.stride(3)
        and suggest_memory_format(images) == torch.channels_last
    ):
        output = _in_channels_last(output)
    return output if images is input else output.squeeze(0)


@serial_in_forked_child
def _in_channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


# Not functools.lru_cache, which torch.compile warns of.
_programs: dict[Any, str] = {}


def _program(geometry: Sequence[int], has_bias: bool, size: Pair, step: Pair) -> str:
    return Network.chain(
        OPERATOR,
        (Conv2d.of(geometry), (0, 1) if has_bias else (0,)),
        (Activation("relu"), ()),
        (MaxPool2d(size, step, padding=(0, 0), dilation=(1, 1), ceil_mode=False), ()),
    ).program()
