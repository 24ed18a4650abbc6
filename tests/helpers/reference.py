"""The operators in float64, slow and readable: loops over windows in plain numpy, after the definitions.

Shapes as in the operators: images (N, C, H, W), padding (top, bottom, left, right).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Geometry(NamedTuple):
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def numbers(self) -> tuple[int, ...]:
        """One by one, as the operators take them."""
        return *self.stride, *self.padding, *self.dilation, self.groups


def taps(geometry: Geometry, kernel: tuple[int, int], y: int, x: int) -> tuple[slice, slice]:
    """The rows and columns of the padded input that output pixel (y, x) is computed from."""
    top, left = y * geometry.stride[0], x * geometry.stride[1]
    bottom = top + geometry.dilation[0] * (kernel[0] - 1) + 1
    right = left + geometry.dilation[1] * (kernel[1] - 1) + 1
    return slice(top, bottom, geometry.dilation[0]), slice(left, right, geometry.dilation[1])


def pad(images: Array, padding: tuple[int, int, int, int], value: float = 0.0) -> Array:
    top, bottom, left, right = padding
    return np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def output_size(size: int, before: int, after: int, kernel: int, stride: int, dilation: int) -> int:
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def conv2d(images: Array, weight: Array, bias: Array | None, geometry: Geometry) -> Array:
    out_channels, group_channels, *kernel = weight.shape
    padded = pad(images, geometry.padding)
    height, width = (
        output_size(
            images.shape[2 + i],
            *geometry.padding[2 * i : 2 * i + 2],
            kernel[i],
            geometry.stride[i],
            geometry.dilation[i],
        )
        for i in range(2)
    )
    output = np.zeros((images.shape[0], out_channels, height, width))
    for channel in range(out_channels):
        group = channel // (out_channels // geometry.groups)
        channels = slice(group * group_channels, (group + 1) * group_channels)
        for y, x in itertools.product(range(height), range(width)):
            rows, columns = taps(geometry, tuple(kernel), y, x)
            products = padded[:, channels, rows, columns] * weight[channel]
            output[:, channel, y, x] = products.sum((1, 2, 3))
    return output if bias is None else output + bias[:, None, None]


def conv2d_gradients(
    grad_output: Array, images: Array, weight: Array, geometry: Geometry
) -> tuple[Array, Array, Array]:
    """The gradients with respect to images, weight and bias."""
    out_channels, group_channels, *kernel = weight.shape
    padded = pad(images, geometry.padding)
    grad_padded, grad_weight = np.zeros_like(padded), np.zeros_like(weight)
    for channel in range(out_channels):
        group = channel // (out_channels // geometry.groups)
        channels = slice(group * group_channels, (group + 1) * group_channels)
        for y, x in itertools.product(range(grad_output.shape[2]), range(grad_output.shape[3])):
            rows, columns = taps(geometry, tuple(kernel), y, x)
            grad = grad_output[:, channel, y, x][:, None, None, None]
            grad_padded[:, channels, rows, columns] += grad * weight[channel]
            grad_weight[channel] += (grad * padded[:, channels, rows, columns]).sum(0)
    top, _, left, _ = geometry.padding
    grad_images = grad_padded[:, :, top : top + images.shape[2], left : left + images.shape[3]]
    return grad_images, grad_weight, grad_output.sum((0, 2, 3))


def pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows start in the input or the padding before it and, without ceil_mode, end inside."""
    extent = dilation * (kernel - 1) + 1
    starts = range(-padding, size, stride)
    if not ceil_mode:
        return sum(start + extent <= size + padding for start in starts)
    # The last window may hang over the padding after the input, but by less than a stride.
    return sum(
        start + extent <= size + padding or start + extent - stride < size + padding for start in starts
    )


def max_pool2d(
    images: Array,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    ceil_mode: bool,
) -> tuple[Array, NDArray[np.int64]]:
    """The maxima and their flat positions: NaN beats all, then the first of the largest in scan order."""
    batch, channels, height, width = images.shape
    out_height, out_width = (
        pooled_size(images.shape[2 + i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode)
        for i in range(2)
    )
    output = np.empty((batch, channels, out_height, out_width))
    indices = np.empty(output.shape, np.int64)
    for n, c, y, x in np.ndindex(output.shape):
        rows = [y * stride[0] - padding[0] + k * dilation[0] for k in range(kernel[0])]
        columns = [x * stride[1] - padding[1] + k * dilation[1] for k in range(kernel[1])]
        window = [(r, q) for r in rows for q in columns if 0 <= r < height and 0 <= q < width]
        best = window[0]
        for position in window[1:]:
            value, maximum = images[n, c][position], images[n, c][best]
            # ATen replaces a NaN by a later NaN, too.
            if value > maximum or np.isnan(value):
                best = position
        output[n, c, y, x] = images[n, c][best]
        indices[n, c, y, x] = best[0] * width + best[1]
    return output, indices


def max_pool2d_input_grad(grad_output: Array, indices: NDArray[np.int64], size: tuple[int, int]) -> Array:
    grad_input = np.zeros((*grad_output.shape[:2], size[0] * size[1]))
    for n, c, y, x in np.ndindex(grad_output.shape):
        grad_input[n, c, indices[n, c, y, x]] += grad_output[n, c, y, x]
    return grad_input.reshape(*grad_output.shape[:2], *size)
