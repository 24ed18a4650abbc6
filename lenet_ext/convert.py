"""Swaps a model's layers between torch.nn and lenet_ext.nn."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch

from lenet_ext import nn

Model = TypeVar("Model", bound=torch.nn.Module)

_OURS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__
}
_NATIVE = {ours: native for native, ours in _OURS.items()}


def convert(model: Model) -> Model:
    """A deep copy of `model` whose Conv2d, MaxPool2d, Linear and ReLU layers are lenet_ext's.

    Parameters, buffers, hooks and the training mode are copied, and modules in several places stay shared.
    Only layers of exactly those torch.nn types change; subclasses of them stay what they are.
    """
    return _replace(model, _OURS)


def revert(model: Model) -> Model:
    """A deep copy of `model` whose lenet_ext layers are torch.nn's: the inverse of `convert`."""
    return _replace(model, _NATIVE)


def _replace(model: Model, types: dict[type[torch.nn.Module], type[torch.nn.Module]]) -> Model:
    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module) in types:
            # Our layers add no state of their own, so that another class is all the difference.
            module.__class__ = types[type(module)]
    return model
