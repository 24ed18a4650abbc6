"""Hypothesis strategies: shapes around vector and tile widths, and every argument, dtype and layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from compare import DTYPES
from hypothesis import strategies as st
from reference import Geometry
from torch import Tensor

# One, odd ones, and one less, equal and one more than the vector widths 8 and 16 and twice that.
SIZES = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33]
LAYOUTS = ["contiguous", "channels_last", "sliced", "transposed", "expanded"]
# A reference loop over more windows or products than this takes too long.
MOST_WINDOWS = 2_000
MOST_PRODUCTS = 2_000_000


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """A 4-D tensor of the same shape in another layout, and of the same values unless it is "expanded"."""
    if layout == "contiguous":
        return tensor
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        batch, channels, height, width = tensor.shape
        wide = torch.full((batch, channels + 1, height, 2 * width + 3), torch.nan, dtype=tensor.dtype)
        view = wide[:, 1:, :, 2 : 2 + 2 * width : 2]
        return view.copy_(tensor)
    if layout == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded":
        return tensor[:, :, :, :1].expand(tensor.shape)
    raise AssertionError(layout)


def normal(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@dataclass(frozen=True)
class ConvCase:
    input_shape: tuple[int, int, int, int]
    weight_shape: tuple[int, int, int, int]
    geometry: Geometry
    bias: bool
    dtype: torch.dtype
    layout: str
    seed: int

    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """input, weight, bias."""
        image = laid_out(normal(self.input_shape, self.dtype, self.seed), self.layout)
        weight = normal(self.weight_shape, self.dtype, self.seed + 1)
        bias = normal(self.weight_shape[:1], self.dtype, self.seed + 2) if self.bias else None
        return image, weight, bias


@st.composite
def conv_cases(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES, named_padding: bool = False) -> ConvCase:
    kernel = draw(st.tuples(*[st.sampled_from([1, 2, 3, 5, 7])] * 2))
    dilation = draw(st.tuples(*[st.sampled_from([1, 1, 2, 3])] * 2))
    stride = draw(st.tuples(*[st.sampled_from([1, 1, 2, 3])] * 2))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    groups = draw(st.sampled_from([1, 1, 2, 3, 8, 17]))
    group_in = draw(st.sampled_from([1, 2, 3, 5] if groups > 1 else SIZES))
    group_out = draw(st.sampled_from([1, 2, 3] if groups > 1 else SIZES))
    extent = [step * (size - 1) + 1 for step, size in zip(dilation, kernel, strict=True)]
    least = [max(1, extent[i] - padding[2 * i] - padding[2 * i + 1]) for i in range(2)]
    # One axis is wide, to meet all the tails of a row; sizes come from above too, to end on any window.
    height = least[0] + draw(st.integers(0, 6))
    width = least[1] - 1 + draw(st.sampled_from(SIZES))
    batch = draw(st.sampled_from([1, 2, 3, 5]))
    windows = lambda: batch * (height + 6) * (width + 6)  # noqa: E731
    products = groups * group_in * group_out * kernel[0] * kernel[1]
    while batch > 1 and windows() * products > MOST_PRODUCTS:
        batch -= 1
    return ConvCase(
        (batch, groups * group_in, height, width),
        (groups * group_out, group_in, *kernel),
        Geometry(stride, padding, dilation, groups),
        draw(st.booleans()),
        draw(st.sampled_from(dtypes)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.integers(0, 2**16)),
    )


@dataclass(frozen=True)
class PoolCase:
    input_shape: tuple[int, int, int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool
    dtype: torch.dtype
    layout: str
    levels: int
    seed: int

    def arguments(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], bool]:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def geometry(self) -> tuple[int, ...]:
        """One by one, as the operators take them."""
        return *self.kernel_size, *self.stride, *self.padding, *self.dilation

    def input(self) -> Tensor:
        """Few distinct values, so that windows hold ties; with levels=0 normal ones."""
        values = normal(self.input_shape, self.dtype, self.seed)
        return laid_out((values * self.levels).round() if self.levels else values, self.layout)


@st.composite
def pool_cases(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES) -> PoolCase:
    kernel = draw(st.one_of(st.just((2, 2)), st.tuples(*[st.sampled_from([1, 2, 3, 4])] * 2)))
    stride = draw(st.one_of(st.just(kernel), st.tuples(*[st.sampled_from([1, 2, 3])] * 2)))
    padding = tuple(draw(st.integers(0, size // 2)) for size in kernel)
    dilation = draw(st.tuples(*[st.sampled_from([1, 1, 1, 2])] * 2))
    # With no more dilation than kernel and input leave, every window holds a pixel.
    least = [step * (size - 1) + 1 for step, size in zip(dilation, kernel, strict=True)]
    height = least[0] + draw(st.integers(0, 5))
    width = least[1] - 1 + draw(st.sampled_from(SIZES))
    batch, channels = draw(st.sampled_from([(1, 1), (2, 3), (1, 8), (3, 1), (1, 17), (2, 16)]))
    return PoolCase(
        (batch, channels, height, width),
        kernel,
        stride,
        padding,
        dilation,
        draw(st.booleans()),
        draw(st.sampled_from(dtypes)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.sampled_from([0, 1, 2])),
        draw(st.integers(0, 2**16)),
    )
