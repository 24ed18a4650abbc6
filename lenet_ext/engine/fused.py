"""fuse: an unmodified network's chain of layers as one module that runs in the fused engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lenet_ext.engine.capture import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU, capture
from lenet_ext.engine.network import net
from lenet_ext.engine.program import Core, Stage
from lenet_ext.ops._arguments import autocast

__all__ = ["FusedNet", "fuse"]

BYTE_RANGE = 255


class FusedNet(torch.nn.Module):
    """The chain of layers of a network, made by `fuse`; it holds the same Parameters under the same names.

    Takes (N, C, H, W) or (N, features) in the dtype of the parameters, N of any size, or uint8 images where
    `fuse` was given mean and std; returns what the network returns. One node of the autograd graph; gradients
    of higher order, torch.func and forward-mode AD go through the layers one by one.
    """

    _normalization: Tensor | None

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter],
        stages: Sequence[_Stage],
        normalization: Tensor | None,
    ) -> None:
        super().__init__()
        # Underscores: any other name may be one of the network's own.
        self._program = tuple(number for stage in stages for number in stage.encode())
        self._parameter_names = tuple(name for stage in stages for name in stage.parameters)
        for name in self._parameter_names:
            _register(self, name, parameters[name])
        self.register_buffer("_normalization", normalization, persistent=False)
        self._find_holders()

    def forward(self, images: Tensor) -> Tensor:
        parameters = self._chain_parameters()
        images, *cast = autocast(images, *parameters)
        normalization = self._normalization if images.dtype == torch.uint8 else None
        return net(images, self._program, normalization, cast)

    def _chain_parameters(self) -> list[Tensor]:
        """Weight and bias of every layer, in order; one that is used twice comes twice."""
        return [parameters[name] for parameters, name in self._holders]

    def extra_repr(self) -> str:
        return f"{len(set(self._parameter_names))} parameters"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FusedNet:
        """Moves to another device or dtype; mean and std stay float32."""
        normalization = self._normalization
        super()._apply(fn, recurse)
        moved = self._normalization
        if normalization is not None and moved is not None:
            self._normalization = normalization.to(moved.device)
        return self

    def _find_holders(self) -> None:
        # The dicts themselves: a walk over dotted names at each call would take longer than a small net.
        self._holders: list[tuple[dict[str, Any], str]] = []
        for path in self._parameter_names:
            owner, _, name = path.rpartition(".")
            self._holders.append((self.get_submodule(owner)._parameters, name))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_holders"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._find_holders()

    def __deepcopy__(self, memo: dict[int, Any]) -> FusedNet:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin


def fuse(
    model: torch.nn.Module,
    example_input: Tensor,
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> FusedNet:
    """A module that computes what `model` does, a few images at a time through all layers.

    model: any chain of conv2d, relu, max_pool2d, flattening, linear, and dropout in eval mode, written with
    modules or functions of torch or of lenet_ext. Its forward is read once, with torch.export. The result
    shares its Parameters: an update of one is seen by the other. example_input: (N, C, H, W) or (N, features)
    of the shape and dtype to expect; only its batch size may differ later. mean, std: one number, or one per
    channel; the module then takes uint8 images too, as (image / 255 - mean) / std. Convolutions with stride 1
    and 3 or 5 kernel rows may be computed by Winograd's method unless in float64: it rounds differently, and
    an infinity in an activation may make NaN of results in neighbouring rows.

    Raises TypeError where an argument has the wrong type; RuntimeError that names the layer where `model` is
    no such chain (lenet_ext.convert is for these); ValueError where mean and std do not fit.
    """
    stages = _stages(capture(model, example_input))
    if not stages:
        raise RuntimeError(f"fuse: {type(model).__name__} has no layer that computes anything")
    normalization = _normalization(mean, std, example_input)
    return FusedNet(dict(model.named_parameters()), stages, normalization)


@dataclass
class _Stage:
    """conv2d, linear or nothing, then relu, then max_pool2d, each of the last two if wanted."""

    core: Conv2d | Linear | None = None
    relu: bool = False
    pool: MaxPool2d | None = None
    flattened: bool = False
    parameters: list[str] = field(default_factory=list)

    def encode(self) -> tuple[int, ...]:
        core, geometry, pool = Core.NONE, None, None
        if isinstance(self.core, Conv2d):
            core = Core.CONV2D
            geometry = (*self.core.stride, *self.core.padding, *self.core.dilation, self.core.groups)
        elif isinstance(self.core, Linear):
            core = Core.LINEAR
        if self.pool is not None:
            sizes = (self.pool.kernel_size, self.pool.stride, self.pool.padding, self.pool.dilation)
            pool = (*(number for size in sizes for number in size), int(self.pool.ceil_mode))
        bias = self.core is not None and self.core.bias is not None
        return Stage(core, bias, self.relu, self.flattened, geometry, pool).encode()


def _stages(layers: Sequence[Layer]) -> list[_Stage]:
    """Layers in groups that the engine computes together. relu and max-pool change places."""
    stages: list[_Stage] = []
    flattened = False
    for layer in layers:
        if isinstance(layer, (Conv2d, Linear)):
            names = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
            stages.append(_Stage(layer, parameters=names))
        elif isinstance(layer, ReLU):
            if not stages:
                stages.append(_Stage(flattened=flattened))
            stages[-1].relu = True
        elif isinstance(layer, Flatten):
            flattened = True  # memory does not change: linear takes images as they are
            if stages:
                stages[-1].flattened = True
        elif isinstance(layer, MaxPool2d):
            if not stages or stages[-1].pool is not None or (stages[-1].relu and _may_skip_pixels(layer)):
                stages.append(_Stage())
            stages[-1].pool = layer
    return stages


def _may_skip_pixels(pool: MaxPool2d) -> bool:
    """Whether a window may lie in the padding alone: its maximum is -inf, and a relu must not come after."""
    return any(padding > 0 and step > 1 for padding, step in zip(pool.padding, pool.dilation, strict=True))


def _register(root: torch.nn.Module, path: str, parameter: torch.nn.Parameter) -> None:
    """Makes `parameter` that of the dotted name `path`, in plain modules on the way."""
    *owners, name = path.split(".")
    module = root
    for owner in owners:
        if owner not in module._modules:
            module.add_module(owner, torch.nn.Module())
        module = module.get_submodule(owner)
    module.register_parameter(name, parameter)


def _normalization(
    mean: float | Sequence[float] | None, std: float | Sequence[float] | None, example: Tensor
) -> Tensor | None:
    """(2, C): the scale and the shift that make (byte / 255 - mean) / std of a byte."""
    if (mean is None) != (std is None):
        raise ValueError("fuse: mean and std belong together, got one of them")
    if mean is None or std is None:
        return None
    values = []
    for name, value in (("mean", mean), ("std", std)):
        numbers = torch.as_tensor(value, dtype=torch.float64, device=example.device).flatten()
        if numbers.numel() not in (1, example.shape[1]):
            wanted = f"one number, or one for each of {example.shape[1]} channels"
            raise ValueError(f"fuse: {name} must be {wanted}, got {value!r}")
        values.append(numbers.expand(example.shape[1]))
    means, stds = values
    if not bool((stds > 0).all()):
        raise ValueError(f"fuse: std must be positive, got {std!r}")
    return torch.stack((1 / (BYTE_RANGE * stds), -means / stds)).float()
