"""Whether networks are of one architecture: the members of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor, nn

from lenet_ext.engine.registered import kinds_of

__all__ = ["check_alike"]

# The attributes of modules that are compared, by type, and those that are looked at one by one instead.
PLAIN = (bool, int, float, complex, str, bytes, tuple, list, dict, type(None))
CONTENTS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def check_alike(models: Sequence[nn.Module]) -> None:
    """Raises RuntimeError, naming what differs, where a model is not of the architecture of the first.

    Compared are classes and arguments of all modules and their modes, shapes, dtypes and devices of
    parameters and buffers, which parameters are trained or shared, and the modules' plain attributes.
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


def _described(model: nn.Module) -> dict[str, Any]:
    """All that decides what a model computes but the values of its tensors, by what it is called."""
    found: dict[str, Any] = {"the class": type(model).__qualname__}
    found |= {f'layer "{path}"': kind for path, kind in kinds_of(model).items()}
    seen: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        where = f'layer "{path}"' if path else "the model"
        found[f"the mode of {where}"] = "training" if module.training else "eval"
        for kind in ("_parameters", "_buffers"):
            for name, tensor in getattr(module, kind).items():
                full = f"{path}.{name}" if path else name
                found[full] = _tensor(tensor, seen, full)
        for name, value in vars(module).items():
            if name not in CONTENTS and isinstance(value, PLAIN) and not name.endswith("_hooks"):
                found[f"attribute {name} of {where}"] = repr(value)
    return found


def _tensor(tensor: Tensor | None, seen: dict[int, str], name: str) -> str:
    if tensor is None:
        return "None"
    if id(tensor) in seen:
        return f"the same as {seen[id(tensor)]}"
    seen[id(tensor)] = name
    trained = ", requires a gradient" if tensor.requires_grad else ""
    return f"{tuple(tensor.shape)} in {tensor.dtype} on {tensor.device}{trained}"


def _refuse(number: int, what: str, was: object, now: object) -> NoReturn:
    raise RuntimeError(
        f"fuse_ensemble: model {number} is not of the architecture of model 0: {what} is {now}, there {was}"
    )
