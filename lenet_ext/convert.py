"""Swaps a model's layers between torch.nn and lenet_ext.nn."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import torch
from torch.nn.utils import parametrize

from lenet_ext import functional, nn
from lenet_ext.engine.fused import FusedNet
from lenet_ext.references import references

Model = TypeVar("Model", bound=torch.nn.Module)


class _Direction(NamedTuple):
    """types: what each layer becomes. left: functions that stay what they are. advice: what to do then."""

    name: str
    types: Mapping[type[torch.nn.Module], type[torch.nn.Module]]
    left: Mapping[str, object]
    advice: str


_OURS = {getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__}
_FUNCTIONS = ("conv2d", "linear", "max_pool2d", "relu")
_NATIVE_FUNCTIONS = {
    **{f"torch.{name}": getattr(torch, name) for name in ("conv2d", "max_pool2d", "relu", "relu_")},
    **{f"torch.nn.functional.{name}": getattr(torch.nn.functional, name) for name in (*_FUNCTIONS, "relu_")},
}
_CONVERT = _Direction(
    "convert", _OURS, _NATIVE_FUNCTIONS, "use modules, or the functions of lenet_ext.functional, there"
)
_REVERT = _Direction(
    "revert",
    {ours: native for native, ours in _OURS.items()},
    {f"lenet_ext.functional.{name}": getattr(functional, name) for name in functional.__all__},
    "use modules, or the functions of torch.nn.functional, there",
)


def convert(model: Model) -> Model:
    """A deep copy of `model` whose Conv2d, MaxPool2d, Linear and ReLU layers are lenet_ext's.

    Parameters, buffers, hooks, parametrizations and the training mode are copied, and modules in several
    places stay shared. Only layers of exactly those torch.nn types change; subclasses of them, and functions
    that a forward calls, stay what they are. Where the code of the model refers to torch.nn.functional.relu,
    torch.conv2d and the like, a UserWarning says so.

    Raises TypeError for anything but a torch.nn.Module, and for one that is fused or compiled by torch.jit.
    """
    return _replace(model, _CONVERT)


def revert(model: Model) -> Model:
    """A deep copy of `model` whose lenet_ext layers are torch.nn's: the inverse of `convert`.

    A UserWarning names the functions of lenet_ext.functional that the code of the model refers to. Raises
    TypeError as `convert` does: of a fused network, revert the model that was fused.
    """
    return _replace(model, _REVERT)


def _replace(model: Model, direction: _Direction) -> Model:
    _check(model, direction.name)
    model = _copied(model)
    for module in model.modules():
        before = parametrize.type_before_parametrizations(module)
        if before in direction.types:
            # Our layers add no state of their own, so that another class is all the difference.
            module.__class__ = _rebased(type(module), before, direction.types[before])
    left = references(model, direction.left)
    if left:
        where = "; ".join(f"{method} refers to {', '.join(names)}" for method, names in left.items())
        warnings.warn(
            f"{direction.name}: functions stay as they are ({where}): {direction.advice}", stacklevel=3
        )
    return model


def _copied(model: Model) -> Model:
    """A deep copy; the tensors that hooks compute anew, as those of pruning do, lose their graph."""
    attributes = (value for module in model.modules() for value in vars(module).values())
    computed = [value for value in attributes if isinstance(value, torch.Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})


def _check(model: object, name: str) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{name}: model must be a torch.nn.Module, got {type(model).__name__}")
    for path, module in model.named_modules():
        where = f'layer "{path}"' if path else "model"
        if isinstance(module, FusedNet):
            raise TypeError(
                f"{name}: {where} is a fused network, which computes what was read when it was fused: "
                f"{name} the model that was given to lenet_ext.fuse instead, which has the same parameters"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"{name}: {where} was compiled by torch.jit, and its layers cannot change: {name} the model "
                "that was compiled instead"
            )


def _rebased(
    cls: type[torch.nn.Module], old: type[torch.nn.Module], new: type[torch.nn.Module]
) -> type[torch.nn.Module]:
    """`new`, or where `cls` is the class that torch made for a parametrized `old`, one like it of `new`."""
    if cls is old:
        return new
    return type(cls.__name__, (new,), {key: value for key, value in vars(cls).items() if key != "__doc__"})
