"""fuse_ensemble: many networks of one architecture as one module in the fused engine."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from lenet_ext.engine.architecture import check_alike
from lenet_ext.engine.capture import capture
from lenet_ext.engine.fused import FusedNet, normalization_of
from lenet_ext.engine.operators import Statistics, draw_seeds, infer_ensemble, run
from lenet_ext.engine.runnable import Runnable
from lenet_ext.ops._arguments import autocast
from lenet_ext.ops._autograd import transformed
from lenet_ext.ops._fork import serial_in_forked_child

__all__ = ["FusedEnsemble", "fuse_ensemble"]


class FusedEnsemble(FusedNet):
    """K networks of one architecture in the fused engine, made by `fuse_ensemble`: its members.

    Its Parameters and buffers are those of the members stacked, (K, ...), under the model's own names, as
    torch.func.stack_module_state lays them out. A call takes images (N, ...) for all members, or (K, N, ...)
    for each its own, and returns what the model returns with a dimension (K,) in front. Each member computes
    the same bits as the network alone would. Dropout draws a seed for each member. `len()` gives K.

    Where nothing is to be differentiated, threads take members without waiting for each other; with
    gradients, of any order and by torch.func too, the members run one after the other. All runs on the CPU.
    Otherwise it is as FusedNet is: it consists of modules and follows them, or refuses by name.
    """

    def __init__(self, members: int, *parts: Any) -> None:
        super().__init__(*parts)
        self._members = members

    def __len__(self) -> int:
        return self._members

    def member(self, index: int) -> OrderedDict[str, Tensor]:
        """The state_dict of a member, copied, in the model's names. Raises IndexError for none of them."""
        index, stacked = self._index(index), self.state_dict()
        state = OrderedDict((name, tensor[index].clone()) for name, tensor in stacked.items())
        state._metadata = stacked._metadata  # type: ignore[attr-defined]
        return state

    def load_member(self, index: int, state_dict: Mapping[str, Tensor]) -> None:
        """Gives a member the parameters and buffers of a state_dict of the model.

        Raises IndexError for no member; TypeError for no state_dict; RuntimeError, changing nothing, for
        names or shapes that are not the model's.
        """
        index, stacked = self._index(index), self.state_dict()
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"load_member: state_dict must be a dict, got {type(state_dict).__name__}")
        missing, unknown = stacked.keys() - state_dict.keys(), state_dict.keys() - stacked.keys()
        if missing or unknown:
            what = f"has no {min(missing)}" if missing else f"has {min(unknown)}, which the model has not"
            raise RuntimeError(f"load_member: the state_dict {what}")
        for name, tensor in stacked.items():
            given = state_dict[name]
            if not isinstance(given, Tensor) or given.shape != tensor.shape[1:]:
                found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
                raise RuntimeError(f"load_member: {name} must be {tuple(tensor.shape[1:])}, got {found}")
        with torch.no_grad():
            values = [state_dict[name].to(tensor) for name, tensor in stacked.items()]  # which may fail
            for tensor, value in zip(stacked.values(), values, strict=True):
                tensor[index].copy_(value)

    def freeze(self) -> Any:
        """Refused: a frozen network is one network. Raises RuntimeError that says how to freeze a member."""
        raise RuntimeError(
            "FusedEnsemble: freeze is for one network: load member(k) into a model and call "
            "lenet_ext.fuse(model, example_input).freeze()"
        )

    def _index(self, index: int) -> int:
        index = operator.index(index)
        if not -self._members <= index < self._members:
            raise IndexError(f"there is no member {index} of {self._members}")
        return index % self._members

    @serial_in_forked_child  # which copies images and stacks outputs
    def _run(self, images: Tensor, tensors: list[Tensor], mode: Runnable, counted: list[Tensor]) -> Any:
        own = self.has_own(images, mode)
        images, *parameters = autocast(images, *tensors)
        seeds = draw_seeds(self._members) if mode.is_random else None
        wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (images, *parameters))
        if wanted or mode.counters or transformed() or is_compiling() or self._members == 0:
            outputs = self._one_by_one(own, images, parameters, tensors, mode, counted, seeds)
        else:
            flat = images.flatten(0, 1) if own else images
            arguments = (parameters, self._members, own, mode.program, self._normalization, seeds)
            outputs = infer_ensemble(flat, *arguments)
        return outputs[0] if mode.is_single else mode.collected(outputs)

    def _one_by_one(
        self,
        own: bool,
        images: Tensor,
        parameters: Sequence[Tensor],
        tensors: Sequence[Tensor],
        mode: Runnable,
        counted: Sequence[Tensor],
        seeds: Tensor | None,
    ) -> Sequence[Tensor]:
        results = []
        # By a single node of the graph: a gradient of the whole stack for each member would be costly.
        of_members = list(zip(*(parameter.unbind() for parameter in parameters), strict=True))
        batches = images.unbind() if own else [images] * self._members
        for k in range(self._members):
            seed = None if seeds is None else seeds[k : k + 1]
            statistics = None
            if mode.counters:
                counts = [count[k] if count.dim() else count for count in counted]
                statistics = Statistics([tensor[k] for tensor in tensors], mode.updated, counts)
            of_member = of_members[k] if parameters else ()
            results.append(run(mode.program, batches[k], self._normalization, of_member, seed, statistics))
        if results:
            return [torch.stack(outputs) for outputs in zip(*results, strict=True)]
        # None of whom the sizes could be asked: those of a member that there is not.
        one = [parameter.new_zeros(parameter.shape[1:]) for parameter in parameters]
        batch = images.new_empty(images.shape[1:]) if own else images
        with torch.no_grad():
            seed = draw_seeds(1) if mode.is_random else None
            outputs = run(mode.program, batch, self._normalization, one, seed)
        nothing: Any = [output.new_empty((0, *output.shape)) for output in outputs]
        for tensor in (images, *parameters):
            if tensor.requires_grad:  # of which the outputs are made, and gradients are zero
                nothing = [output + tensor.sum() for output in nothing]
        return nothing

    def has_own(self, images: Tensor, mode: Runnable | None = None) -> bool:
        """Whether images are (K, N, ...), for each member its own; RuntimeError for other dimensions."""
        example = (mode or self._mode).sizes.example
        dimensions = 1 + len(example)
        if images.dim() not in (dimensions, dimensions + 1):
            sizes = ", ".join(map(str, example))
            wanted = f"(N, {sizes}) for all members or ({self._members}, N, {sizes}) for each its own"
            raise RuntimeError(f"FusedEnsemble: images must be {wanted}, got {tuple(images.shape)}")
        own = images.dim() > dimensions
        if own and images.shape[0] != self._members:
            have = f"images are for {images.shape[0]} members, got {tuple(images.shape)}"
            raise RuntimeError(f"FusedEnsemble: there are {self._members} members, but {have}")
        return own

    def _checked_tensors(self, images: Tensor) -> list[Tensor]:
        tensors = super()._checked_tensors(images)
        self._check_stacked(tensors)
        return tensors

    def _as_compiled(self, images: Tensor) -> tuple[list[Tensor], Runnable, list[Tensor]]:
        tensors, mode, counted = super()._as_compiled(images)
        self._check_stacked(tensors)
        return tensors, mode, counted

    def _check_stacked(self, tensors: Sequence[Tensor]) -> None:
        """Raises RuntimeError for a parameter or buffer that was replaced by one of other members."""
        for name, tensor in zip(self._layout.tensors, tensors, strict=True):
            if tensor.dim() == 0 or tensor.shape[0] != self._members:
                wanted = f"({self._members}, ...), one for each member"
                raise RuntimeError(f"FusedEnsemble: {name} must be {wanted}, got {tuple(tensor.shape)}")

    def _check(self, images: Tensor, mode: Runnable) -> None:
        if isinstance(images, Tensor) and images.dim() == 2 + len(mode.sizes.example):
            images = images[0] if len(images) else images.new_empty(images.shape[1:])
        super()._check(images, mode)

    def extra_repr(self) -> str:
        return f"{self._members} members, each of {super().extra_repr()}"


def fuse_ensemble(
    models: Sequence[nn.Module] | nn.Module,
    example_input: Tensor,
    *,
    copies: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> FusedEnsemble:
    """K networks of one architecture as one module, whose Parameters are theirs stacked.

    models: K modules that `fuse` takes, which differ in the values of their parameters and buffers alone; or
    one, with copies=K: all members then begin with its values. The stacked Parameters are copies: later
    changes of the models are not seen, and the models stay as they are. example_input, mean, std: as for
    `fuse`; all members have the same.

    Raises TypeError or ValueError for arguments that do not fit; RuntimeError where the model cannot be
    fused, or naming the first model that differs, and the layer, parameter or attribute in which it does.
    """
    if isinstance(models, nn.Module):
        if isinstance(copies, bool) or not isinstance(copies, int):
            kind = "" if copies is None else f", got {type(copies).__name__}"
            raise TypeError(f"fuse_ensemble: with a single model copies must be an int{kind}")
        if copies < 0:
            raise ValueError(f"fuse_ensemble: copies must be at least 0, got {copies}")
        members = [models] * copies
        first = models
    else:
        if not isinstance(models, Iterable):
            kind = type(models).__name__
            raise TypeError(f"fuse_ensemble: models must be torch.nn.Modules, or one, got {kind}")
        members = list(models)
        if copies is not None:
            raise TypeError("fuse_ensemble: copies is for a single model")
        for model in members:
            if not isinstance(model, nn.Module):
                raise TypeError(f"fuse_ensemble: models must be torch.nn.Modules, got {type(model).__name__}")
        if not members:
            raise ValueError("fuse_ensemble: there is no model; (model, example_input, copies=0) makes none")
        first = members[0]
        check_alike(members)
    captured = capture(first, example_input)
    normalization = normalization_of(mean, std, example_input)
    return FusedEnsemble(len(members), _stacked(first, members), captured, normalization)


def _stacked(model: nn.Module, members: Sequence[nn.Module]) -> nn.Module:
    """A copy of `model` whose parameters and buffers are those of the members, stacked."""
    try:
        template = deepcopy(model)
    except Exception as error:
        raise RuntimeError(f"fuse_ensemble: the model cannot be copied: {error}") from error
    places = [dict(member.named_modules(remove_duplicate=False)) for member in members]
    made: dict[int, Any] = {}  # a tensor that is used in several places stays one
    for path, module in template.named_modules(remove_duplicate=False):
        for kind in ("_parameters", "_buffers"):
            held = getattr(module, kind)
            for name, tensor in held.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    owners = [place[path] for place in places]
                    values = [getattr(owner, kind)[name].detach() for owner in owners]
                    whole = torch.stack(values) if values else tensor.detach().new_empty((0, *tensor.shape))
                    if kind == "_parameters":
                        whole = nn.Parameter(whole, requires_grad=tensor.requires_grad)
                    made[id(tensor)] = made[id(whole)] = whole
                held[name] = made[id(tensor)]
    return template
