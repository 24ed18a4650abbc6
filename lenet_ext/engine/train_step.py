"""TrainStep: forward, loss, backward and the SGD update of a fused network in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from lenet_ext.engine.fused import FusedNet
from lenet_ext.engine.network import Loss, train
from lenet_ext.engine.step_graphs import StepGraphs

__all__ = ["TrainStep"]

LOSSES = {"cross_entropy": Loss.CROSS_ENTROPY, "mse": Loss.MEAN_SQUARED_ERROR}
# Marks the errors of csrc/ops/network.cpp that torch raises as IndexError.
OUT_OF_RANGE = "is out of range"


class TrainStep:
    """A training step with SGD: `loss = step(images, targets)`.

    fused: made by `fuse`; all its parameters are trained, in place. lr, momentum, weight_decay, nesterov: as
    of torch.optim.SGD, and plain attributes that may be changed between steps. loss: "cross_entropy", of
    logits (N, classes) and int64 targets (N,), or "mse", of outputs and targets of one shape and dtype; means
    over the batch.

    The same numbers as torch's, up to rounding; the gradients are not kept. Results are bitwise the same from
    run to run and for every number of threads.

    On CUDA a step that repeats becomes a CUDA graph, captured anew for batches of other sizes, and it does
    not wait for the GPU: a batch with a target that is no class changes nothing and has the loss NaN.

    Raises TypeError or ValueError for an argument that does not fit; RuntimeError for a parameter that is
    used twice, shared, or frozen.
    """

    def __init__(
        self,
        fused: FusedNet,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        loss: str = "cross_entropy",
    ) -> None:
        if not isinstance(fused, FusedNet):
            raise TypeError(
                f"TrainStep: fused must come from lenet_ext.fuse, got {type(fused).__name__}: "
                "call lenet_ext.fuse(model, example_input) first"
            )
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"TrainStep: {name} must be 0 or more, got {value!r}")
        if nesterov and momentum == 0:
            raise ValueError("TrainStep: nesterov needs a momentum above 0")
        if loss not in LOSSES:
            raise ValueError(f'TrainStep: loss must be "cross_entropy" or "mse", got {loss!r}')
        parameters = fused._chain_parameters()
        if len({parameter.data_ptr() for parameter in parameters}) < len(parameters):
            raise RuntimeError(
                "TrainStep: a parameter is used twice: train with fuse and torch.optim instead"
            )
        if not all(parameter.requires_grad for parameter in parameters):
            raise RuntimeError("TrainStep: a parameter is frozen: train with fuse and torch.optim instead")
        self.fused, self.loss = fused, loss
        self.lr, self.momentum, self.weight_decay, self.nesterov = lr, momentum, weight_decay, nesterov
        self._buffers: Tensor | None = None
        self._graphs: StepGraphs | None = None

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """The mean loss before the update, a 0-d tensor.

        A bad target raises IndexError, changing nothing; on CUDA it makes the loss NaN, changing nothing.
        """
        if images.is_cuda and not torch.cuda.is_current_stream_capturing():
            return self._replay(images, targets)
        return self._train(images, targets, None, 0)

    def epoch(
        self,
        images: Tensor,
        targets: Tensor,
        batch_size: int,
        permutation: Tensor | None = None,
        callback: Callable[[int, Tensor], None] | None = None,
        callback_steps: int = 100,
    ) -> Tensor:
        """A step for each batch of `batch_size` images, the last perhaps smaller; the losses (steps,).

        permutation: int64, the images to take in this order (those left out are not used; one may come
        twice). callback(steps_done, losses_so_far) is called after every `callback_steps` steps and at the
        end. Targets and permutation are checked before the first step: an IndexError changes nothing. On CUDA
        the epoch waits for the GPU before it begins, to check them.
        """
        if batch_size < 1 or callback_steps < 1:
            raise ValueError("TrainStep: batch_size and callback_steps must be at least 1")
        if permutation is not None:
            permutation = permutation.to(images.device)
        if images.is_cuda:
            self._check_targets(images, targets)
        if permutation is not None and (images.is_cuda or callback is not None):
            _check_indices("order", permutation, len(images))
        if callback is None:
            return self._train(images, targets, permutation, batch_size)
        order = torch.arange(len(images), device=images.device) if permutation is None else permutation
        losses: list[Tensor] = []
        for part in order.split(batch_size * callback_steps):
            losses.append(self._train(images, targets, part, batch_size))
            done = torch.cat(losses)
            callback(len(done), done)
        return torch.cat(losses) if losses else self._train(images, targets, order, batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_graphs": None}  # which belong to this process and these parameters

    def state_dict(self) -> dict[str, Any]:
        """The state in the format of torch.optim.SGD(fused.parameters(), ...)."""
        names = [name for name, _ in self.fused.named_parameters()]
        state = {}
        if self._buffers is not None:
            buffers = dict(zip(self.fused._parameter_names, self._views(self._buffers), strict=True))
            state = {i: {"momentum_buffer": buffers[name].clone()} for i, name in enumerate(names)}
        return {"state": state, "param_groups": [{**self._options(), "params": list(range(len(names)))}]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` or that of a torch.optim.SGD over the same parameters gave.

        Raises ValueError, changing nothing, where it does not fit.
        """
        (group,) = self._checked_groups(state_dict)
        names = [name for name, _ in self.fused.named_parameters()]
        parameters = self.fused._chain_parameters()
        saved = {name: state_dict["state"].get(i, {}).get("momentum_buffer") for i, name in enumerate(names)}
        buffers = None
        if any(buffer is not None for buffer in saved.values()):
            buffers = parameters[0].new_zeros(sum(parameter.numel() for parameter in parameters))
            for name, parameter, view in zip(
                self.fused._parameter_names, parameters, self._views(buffers), strict=True
            ):
                buffer = saved[name]
                if buffer is None:
                    continue
                if buffer.shape != parameter.shape:
                    shapes = f"{tuple(buffer.shape)} for a parameter of shape {tuple(parameter.shape)}"
                    raise ValueError(f"TrainStep: momentum_buffer of {name} has shape {shapes}")
                view.copy_(buffer)
        self._buffers = buffers
        for name in ("lr", "momentum", "weight_decay", "nesterov"):
            setattr(self, name, group[name])

    def _replay(self, images: Tensor, targets: Tensor) -> Tensor:
        """A step through a CUDA graph, where one like it came before."""
        parameters = self.fused._chain_parameters()
        self._make_buffers(parameters)
        if self._graphs is None or self._graphs.device != images.device:
            self._graphs = StepGraphs(images.device)
        tensors = [*parameters, self._buffers, self.fused._normalization]
        kind = (
            *((tensor.shape, tensor.dtype, tensor.device) for tensor in (images, targets)),
            *(None if tensor is None else (tensor.data_ptr(), tensor.dtype) for tensor in tensors),
            *(self.momentum, self.weight_decay, self.nesterov, self.loss),
        )
        loss = self._graphs.run(
            lambda images, targets, lr: self._train(images, targets, None, 0, lr),
            *(kind, images, targets, self.lr),
        )
        increment_version(parameters)
        return loss

    def _make_buffers(self, parameters: list[Tensor]) -> None:
        if self.momentum != 0 and self._buffers is None:
            size = sum(parameter.numel() for parameter in parameters)
            self._buffers = parameters[0].new_zeros(size)

    def _train(
        self,
        images: Tensor,
        targets: Tensor,
        order: Tensor | None,
        batch_size: int,
        device_lr: Tensor | None = None,
    ) -> Tensor:
        fused = self.fused
        parameters = fused._chain_parameters()
        self._make_buffers(parameters)
        normalization = fused._normalization if images.dtype == torch.uint8 else None
        try:
            losses = train(
                images,
                targets,
                order,
                parameters,
                self._buffers if self.momentum != 0 else None,
                fused._program,
                normalization,
                batch_size,
                self.lr,
                self.momentum,
                self.weight_decay,
                self.nesterov,
                LOSSES[self.loss],
                device_lr,
            )
        except RuntimeError as error:
            if OUT_OF_RANGE in str(error):
                raise IndexError(str(error)) from None
            raise
        increment_version(parameters)  # an operator bound through the stable ABI leaves that to its caller
        return losses

    def _check_targets(self, images: Tensor, targets: Tensor) -> None:
        """Raises IndexError for a class that the operator could not check without waiting for the GPU."""
        if self.loss == "cross_entropy" and targets.dtype == torch.int64 and len(images) > 0:
            with torch.no_grad():
                classes = self.fused(images[:1]).shape[-1]
            _check_indices("target", targets, classes)

    def _views(self, flat: Tensor) -> list[Tensor]:
        """`flat` cut into the shapes of the parameters."""
        parameters = self.fused._chain_parameters()
        parts = flat.split([parameter.numel() for parameter in parameters])
        return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]

    def _options(self) -> dict[str, Any]:
        """The options of a parameter group of torch.optim.SGD, in its order."""
        ours = {name: getattr(self, name) for name in ("lr", "momentum", "weight_decay", "nesterov")}
        template = torch.optim.SGD([torch.zeros(1)], lr=self.lr).state_dict()["param_groups"][0]
        return {key: ours.get(key, value) for key, value in template.items() if key != "params"}

    def _checked_groups(self, state_dict: dict[str, Any]) -> list[dict[str, Any]]:
        groups = list(state_dict["param_groups"])
        if len(groups) != 1:
            raise ValueError(f"TrainStep: state_dict has {len(groups)} parameter groups, one is needed")
        count = len(list(self.fused.parameters()))
        if len(groups[0]["params"]) != count:
            raise ValueError(
                f"TrainStep: state_dict is for {len(groups[0]['params'])} parameters, the network has {count}"
            )
        if groups[0].get("dampening", 0) != 0 or groups[0].get("maximize", False):
            raise ValueError("TrainStep: dampening and maximize are not supported")
        return groups


def _check_indices(name: str, indices: Tensor, count: int) -> None:
    """Raises IndexError for the first index out of [0, count), as the operator does for a block of them."""
    bad = ((indices < 0) | (indices >= count)).nonzero()
    if len(bad) > 0 and indices.dim() == 1:
        place = int(bad[0])
        value = int(indices[place])
        raise IndexError(f"net_train: {name} {value} at position {place} {OUT_OF_RANGE} [0, {count})")
