"""torch.nn's layers on our operators: same arguments, initialisation, repr and state_dict."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lenet_ext import functional as F

__all__ = ["Conv2d", "Linear", "MaxPool2d", "ReLU"]


class Conv2d(torch.nn.Conv2d):
    """torch.nn.Conv2d: (N, in_channels, H, W) or (in_channels, H, W) to the same with out_channels."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            edges = self._reversed_padding_repeated_twice
            input, padding = torch.nn.functional.pad(input, edges, mode=self.padding_mode), 0
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class MaxPool2d(torch.nn.MaxPool2d):
    """torch.nn.MaxPool2d: (N, C, H, W) or (C, H, W) to the maxima of its windows (and their positions)."""

    def forward(self, input: Tensor) -> Any:
        return F.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )


class Linear(torch.nn.Linear):
    """torch.nn.Linear: (..., in_features) to (..., out_features)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)


class ReLU(torch.nn.ReLU):
    """torch.nn.ReLU: any shape."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input, inplace=self.inplace)
