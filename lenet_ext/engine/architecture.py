"""Whether networks are of one architecture: the members of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from torch import Tensor, nn

from lenet_ext.engine.content import Contents, own_class
from lenet_ext.engine.registered import kinds_of

__all__ = ["check_alike"]

# What modules have besides attributes of their own: it is looked at one by one, or computes nothing.
OTHERS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_compiled_call_impl")
LONGEST = 200  # of what an error says about a difference


def check_alike(models: Sequence[nn.Module]) -> None:
    """Raises RuntimeError, naming what differs, where a model is not of the architecture of the first.

    Compared are classes and arguments of all modules and their modes, shapes, dtypes and devices of
    parameters and buffers, which parameters are trained or shared, and what the modules' other attributes
    hold: numbers, tensors, functions and whatever consists of them.
    """
    first = _described(models[0])
    for number, model in enumerate(models[1:], start=1):
        if model is models[0]:
            continue
        other = _described(model)
        for key in (*first, *(key for key in other if key not in first)):
            was, now = first.get(key, "not there"), other.get(key, "not there")
            if was != now:
                _refuse(number, key, was, now)


def _described(model: nn.Module) -> dict[str, str]:
    """All that decides what a model computes but the values of its tensors, by what it is called."""
    found = {"the class": type(model).__qualname__}
    found |= {f'layer "{path}"': kind for path, kind in kinds_of(model).items()}
    tensors: dict[int, str] = {}
    # Modules are looked at where they are registered.
    contents = Contents({id(module): _where(path) for path, module in model.named_modules()})
    for path, module in model.named_modules(remove_duplicate=False):
        where = _where(path)
        found[f"the mode of {where}"] = "training" if module.training else "eval"
        for kind in ("_parameters", "_buffers"):
            for name, tensor in getattr(module, kind).items():
                full = f"{path}.{name}" if path else name
                found[full] = _tensor(tensor, tensors, full)
        for name, value in vars(module).items():
            if name not in OTHERS and "_hooks" not in name:
                found[f"attribute {name} of {where}"] = contents.text(value)
        if own_class(type(module)):
            found[f"the class of {where}"] = contents.text(type(module))
    return found


def _where(path: str) -> str:
    return f'layer "{path}"' if path else "the model"


def _tensor(tensor: Tensor | None, seen: dict[int, str], name: str) -> str:
    if tensor is None:
        return "None"
    if id(tensor) in seen:
        return f"the same as {seen[id(tensor)]}"
    seen[id(tensor)] = name
    trained = ", requires a gradient" if tensor.requires_grad else ""
    return f"{tuple(tensor.shape)} in {tensor.dtype} on {tensor.device}{trained}"


def _refuse(number: int, what: str, was: str, now: str) -> NoReturn:
    if max(len(was), len(now)) > LONGEST:  # around the place where they differ
        same = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), 0)
        begin = max(0, same - LONGEST // 2)
        was, now = (f"... {text[begin : begin + LONGEST]} ..." for text in (was, now))
    raise RuntimeError(
        f"fuse_ensemble: model {number} is not of the architecture of model 0: {what} is {now}, there {was}"
    )
