"""fuse: an unmodified network as one module that runs in the fused engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from lenet_ext.engine.capture import Captured, capture
from lenet_ext.engine.capture.errors import layer_name
from lenet_ext.engine.capture.modes import Flags, flags, unread
from lenet_ext.engine.frozen import FrozenNet, Parts, frozen, parts_of
from lenet_ext.engine.network import Network
from lenet_ext.engine.operators import Statistics, draw_seeds, run
from lenet_ext.engine.reasons import against
from lenet_ext.engine.registered import Layout, Registered, counts
from lenet_ext.engine.runnable import Runnable
from lenet_ext.ops._arguments import autocast

__all__ = ["FusedNet", "fuse", "normalization_of"]

BYTE_RANGE = 255


class FusedNet(torch.nn.Module):
    """A network in the fused engine, made by `fuse`.

    It consists of the model's own modules: a layer or a Parameter that is replaced on one side is replaced on
    the other, and `parameters()`, `state_dict()` and the training mode are the model's. What the model
    computes was read once, though: where its modules are no longer of the same kinds and arguments, or have
    hooks, a call raises RuntimeError. Arguments that are set on a layer in place, as in `conv1.stride = 2`,
    are an exception: they are seen when a module or a parameter changes too.

    Takes (N, ...) in the dtype of the parameters, N of any size, the other sizes those of the example unless
    these were found to make no difference; or, where `fuse` was given mean and std, uint8 images, and those
    alone. Returns what the model returns: a tensor, or a tuple, list or dict of tensors. One node of the
    autograd graph; gradients of higher order, torch.func and forward-mode AD go through the layers in turn.

    `train()` and `eval()` choose what dropout and batch norm do, as in the model, and so do the modes of
    single layers, if the network was read with them so: as it was handed over, all in training mode, all in
    eval mode. Dropout draws one seed a call from torch's default generator; in training mode batch norm
    brings the running statistics of its module up to date.
    """

    def __init__(self, model: torch.nn.Module, captured: Captured, normalization: Tensor | None) -> None:
        super().__init__()
        # The dicts themselves. Underscores: any other name may be one of the model's own.
        self._modules, self._parameters, self._buffers = model._modules, model._parameters, model._buffers
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self.training = model.training
        # Where its class has a `train` of its own, which decides on the modes of its layers. In a tuple, or
        # the model would become a layer.
        self._trained_as = (model,) if type(model).train is not torch.nn.Module.train else ()
        self._modes = {
            pattern: mode if isinstance(mode, str) else Runnable.of(mode)
            for pattern, mode in captured.modes.items()
        }
        self._layout = Layout.of(model, captured)
        self._normalization = normalization
        self._registered = Registered()

    def forward(self, images: Tensor) -> Any:
        if is_compiling():
            return self._run(images, *self._as_compiled(images))
        try:
            tensors = self._checked_tensors(images)
            return self._run(images, tensors, self._mode, self._registered.counts)
        except Exception as error:
            reason = against("FusedNet", images, self._named(), self._normalization is not None)
            if reason is None:
                raise
            raise reason from error

    def train(self, mode: bool = True) -> FusedNet:
        """Puts the network into training mode, or into eval mode, as the model's own `train` does."""
        if not self._trained_as:
            return super().train(mode)
        (model,) = self._trained_as
        self.training = model.train(mode).training
        return self

    def freeze(self) -> FrozenNet:
        """The network in eval mode as it is now, for inference alone: see `FrozenNet`.

        Whatever mode the modules are in, which they keep. Raises RuntimeError, naming what is in the way,
        where a call in eval mode would: for modules that changed, a mode that cannot be fused, parameters on
        the meta device or sharded; and for parameters that are not on the CPU, and a network that draws
        random numbers or changes running statistics in eval mode too.
        """
        return frozen(self._eval_parts())

    def _eval_parts(self) -> Parts:
        """What `freeze` makes a network of: the registered tensors themselves, on whatever device."""
        tensors = self._registered.tensors(self, self._layout)
        return parts_of(self._in_mode(self._eval_flags()), self._layout.tensors, tensors, self._normalization)

    def _eval_flags(self) -> Flags:
        """The modes of the layers after eval()."""
        modules = [*self.modules(), *self._trained_as]
        if not self._trained_as and all(_is_plain(module) for module in modules[1:]):
            return (False,) * len(self._layout.paths)
        before = [(module, module.training) for module in modules]
        try:
            self.eval()
            return flags(self, self._layout.paths)
        finally:
            for module, mode in before:
                module.training = mode

    def _run(self, images: Tensor, tensors: list[Tensor], mode: Runnable, counted: list[Tensor]) -> Any:
        images, *parameters = autocast(images, *tensors)
        seed = draw_seeds(1) if mode.is_random else None
        statistics = Statistics(tensors, mode.updated, counted) if mode.counters else None
        outputs = run(mode.program, images, self._normalization, parameters, seed, statistics)
        return outputs[0] if mode.is_single else mode.collected(outputs)

    def _checked_tensors(self, images: Tensor) -> list[Tensor]:
        """Those of the network in its order, after a look at the mode and at the sizes of `images`."""
        registered = self._registered
        tensors = registered.tensors(self, self._layout)
        if images.shape != registered.shape:
            self._check(images, self._mode)
            registered.shape = images.shape
        return tensors

    def _as_compiled(self, images: Tensor) -> tuple[list[Tensor], Runnable, list[Tensor]]:
        """What a call takes from the modules, as torch.compile can follow it."""
        mode = self._in_mode(tuple([_submodule(self, path).training for path in self._layout.paths]))
        self._check(images, mode)
        return [_attribute(self, path) for path in self._layout.tensors], mode, counts(self, mode.counters)

    @property
    def _mode(self) -> Runnable:
        """The network in the mode in which its modules are, as far as they were looked at last."""
        registered = self._registered
        if registered.mode is None:
            mode = self._in_mode(registered.flags)
            registered.mode, registered.counts = mode, counts(self, mode.counters)
        return registered.mode

    def _in_mode(self, pattern: Flags) -> Runnable:
        mode = self._modes.get(pattern)
        if isinstance(mode, Runnable):
            return mode
        if mode is not None:
            raise RuntimeError(f"FusedNet: this mode cannot be fused: {mode.removeprefix('fuse: ')}")
        path, training = unread(self._layout.paths, pattern, self._modes)
        state = "training" if training else "eval"
        if not path:
            raise RuntimeError(
                f"FusedNet: it is in {state} mode itself, and its layers are not: call train() or eval() of "
                "the fused network, which the model's own do not change, or "
                "lenet_ext.fuse(model, example_input) again in that mode"
            )
        name = layer_name(path, "the network")
        raise RuntimeError(
            f"FusedNet: {name} is in {state} mode, and the network was not read with the other layers as "
            "they are: call lenet_ext.fuse(model, example_input) again in that mode"
        )

    @property
    def _network(self) -> Network:
        """What is computed in the mode in which the modules are."""
        self._registered.tensors(self, self._layout)
        return self._mode.network

    def _check(self, images: Tensor, mode: Runnable) -> None:
        """Raises RuntimeError for images that the model may treat in another way."""
        mode.sizes.check("FusedNet", images.shape)

    def _named(self) -> dict[str, Tensor]:
        """Those of the network's parameters that are registered, in its order."""
        registered = dict(self.named_parameters(remove_duplicate=False))
        return {path: registered[path] for path in self._layout.parameters if path in registered}

    def extra_repr(self) -> str:
        return f"{len(set(self._layout.parameters))} parameters"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FusedNet:
        """Moves to another device or dtype; mean and std stay float32."""
        super()._apply(fn, recurse)
        if self._normalization is not None:
            self._normalization = self._normalization.to(fn(self._normalization).device)
        return self

    def _replicate_for_data_parallel(self) -> FusedNet:
        """A copy whose modules and parameters torch.nn.parallel.replicate sets."""
        replica = super()._replicate_for_data_parallel()
        replica._registered = Registered()
        return replica


def _is_plain(module: torch.nn.Module) -> bool:
    """Whether its class leaves the choice of modes to torch."""
    return type(module).train is torch.nn.Module.train


def _submodule(root: torch.nn.Module, path: str) -> torch.nn.Module:
    """get_submodule, as torch.compile can follow it."""
    module = root
    for name in path.split(".") if path else ():
        module = module._modules[name]  # type: ignore[assignment]
    return module


def _attribute(root: torch.nn.Module, path: str) -> Tensor:
    """The tensor of the dotted name `path`."""
    owner, _, name = path.rpartition(".")
    value: Tensor = getattr(_submodule(root, owner), name)
    return value


def fuse(
    model: torch.nn.Module,
    example_input: Tensor,
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> FusedNet:
    """A module that computes what `model` does, a few images at a time through all layers.

    model: computes one tensor or several from one tensor, by the layers of the table in docs/engine.md,
    written with modules or functions of torch or of lenet_ext, one after the other or in branches. Its
    forward is read with torch.export, in the mode in which it is handed over, in training and in eval mode; a
    mode that cannot be fused is refused when it is called. The result consists of its modules: an update of
    one is seen by the other. example_input: (N, ...) of the shape to expect, in the dtype of the parameters;
    its batch size may differ later, and its other sizes where the model does the same for other ones. mean,
    std: one number, or one per channel; the module then takes uint8 images, as (image / 255 - mean) / std,
    and refuses others, which it could not tell from images that are normalized already. Convolutions with
    stride 1 and 3 or 5 kernel rows, or twice as many rows as their stride, may be computed by Winograd's
    method unless in float64, with errors of a few times those of direct sums (docs/kernels.md). On CUDA
    chains of some of the layers run, with one output (docs/engine.md); a call refuses others by name.

    Raises TypeError where an argument has the wrong type; RuntimeError that names the layer where no mode of
    `model` can be fused (lenet_ext.convert is for these); ValueError where mean and std do not fit.
    """
    captured = capture(model, example_input)
    return FusedNet(model, captured, normalization_of(mean, std, example_input))


def normalization_of(
    mean: float | Sequence[float] | None, std: float | Sequence[float] | None, example: Tensor
) -> Tensor | None:
    """(2, C): the scale and the shift that make (byte / 255 - mean) / std of a byte."""
    if (mean is None) != (std is None):
        raise ValueError("fuse: mean and std belong together, got one of them")
    if mean is None or std is None:
        return None
    values = []
    for name, value in (("mean", mean), ("std", std)):
        try:
            numbers = torch.as_tensor(value, dtype=torch.float64, device=example.device).flatten()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"fuse: {name} must be a number or numbers, got {value!r}") from None
        if numbers.numel() not in (1, example.shape[1]):
            wanted = f"one number, or one for each of {example.shape[1]} channels"
            raise ValueError(f"fuse: {name} must be {wanted}, got {value!r}")
        values.append(numbers.expand(example.shape[1]))
    means, stds = values
    if not bool(((stds > 0) & stds.isfinite()).all()):
        raise ValueError(f"fuse: std must be positive and finite, got {std!r}")
    with torch.inference_mode(False):  # for autograd, which may save it later
        normalization = torch.stack((1 / (BYTE_RANGE * stds), -means / stds)).float()
    if not bool(normalization.isfinite().all()):
        raise ValueError(f"fuse: mean {mean!r} and std {std!r} give no finite pixels in float32")
    return normalization
