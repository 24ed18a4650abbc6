"""Frozen networks as safetensors files: tensors, and in the metadata all else as JSON.

That JSON is a network's description; the checkpoints of lenet_ext.training have it beside tensors of theirs.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from lenet_ext._C import saved_sizes
from lenet_ext.engine.capture import ImageSizes, Leaf
from lenet_ext.engine.conditions import check_conditions
from lenet_ext.engine.frozen import FrozenNet, Parts
from lenet_ext.engine.network import Network

__all__ = ["UNUSABLE", "description_of", "load_frozen", "parts_from", "save_frozen"]

KEY, FORMAT = "lenet_ext.frozen", 1
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}
COLLECTIONS: dict[str, Any] = {"tuple": tuple, "list": list, "dict": dict, "OrderedDict": OrderedDict}
NORMALIZATION, PREFIX = "normalization", "tensors."
# What a description, or tensors that do not fit it, may lead to.
UNUSABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def save_frozen(parts: Parts, path: str | os.PathLike[str]) -> None:
    """Writes a frozen network: see `FrozenNet.save`."""
    safetensors = _safetensors("FrozenNet.save")
    tensors = {PREFIX + name: tensor for name, tensor in parts.tensors.items()}
    if parts.normalization is not None:
        tensors[NORMALIZATION] = parts.normalization
    safetensors.save_file(tensors, path, metadata={KEY: json.dumps(description_of(parts))})


def description_of(parts: Parts) -> dict[str, Any]:
    """All of a network but the values of its tensors and the normalization, as JSON can hold it.

    Raises RuntimeError for what it returns: see `FrozenNet.save`.
    """
    sizes = parts.sizes
    return {
        "format": FORMAT,
        "program": parts.network.program(),
        "dtype": str(parts.dtype).removeprefix("torch."),
        "tensors": list(parts.tensors),
        "structure": _encoded(parts.structure),
        "image": list(sizes.example),
        "names": list(sizes.names),
        "conditions": list(sizes.conditions),
        "batch_name": sizes.batch_name,
    }


def load_frozen(path: str | os.PathLike[str]) -> FrozenNet:
    """The network in a file of `FrozenNet.save`; nothing in the file is run as code.

    Raises OSError where the file cannot be read, ValueError, naming it, where it is no such file or was
    damaged, ImportError without safetensors, which the extra [cli] installs.
    """
    safetensors = _safetensors("load_frozen")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"load_frozen: {path} is no safetensors file: {error}") from error
    if KEY not in metadata:
        raise ValueError(f"load_frozen: {path} was not written by FrozenNet.save: it has no {KEY}")
    own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    normalization = tensors.get(NORMALIZATION)
    try:
        parts = parts_from(json.loads(metadata[KEY]), own, normalization)
        if len(parts.tensors) + (normalization is not None) != len(tensors):
            raise ValueError("it has other tensors than its description")
        return FrozenNet(parts)
    except UNUSABLE as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"load_frozen: {path} holds no network that can be run: {reason}") from error


def parts_from(
    description: Any, tensors: Mapping[str, torch.Tensor], normalization: torch.Tensor | None
) -> Parts:
    """The network of a `description_of`, with those of `tensors` that it names; checked, and none of it run.

    Raises one of `UNUSABLE` for a description that was damaged, or is of other tensors.
    """
    if description["format"] != FORMAT:
        raise ValueError(f"its format is {description['format']!r}, this version reads {FORMAT}")
    dtype = DTYPES[description["dtype"]]
    own = {name: tensors[name].contiguous() for name in description["tensors"]}
    if any(tensor.dtype != dtype for tensor in own.values()):
        raise ValueError(f"a tensor is not {dtype}")
    image = tuple(map(_size, description["image"]))
    names = tuple(description["names"])
    conditions = tuple(description["conditions"])
    check_conditions(conditions, [description["batch_name"], *filter(None, names)])
    network = Network.of(description["program"])
    if network.is_random or network.updated:
        raise ValueError("its network draws random numbers or changes statistics")
    outputs, *_ = saved_sizes(network.program(), [1, *image], [list(tensor.shape) for tensor in own.values()])
    return Parts(
        network,
        ImageSizes(image, names, conditions, description["batch_name"]),
        _decoded(description["structure"], len(outputs)),
        dtype,
        own,
        normalization,
    )


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a size is {value!r}")
    return value


def _encoded(structure: Any) -> Any:
    """What a call returns, as JSON can hold it."""
    if isinstance(structure, Leaf):
        return {"output": structure.output}
    if structure is None or type(structure) in (bool, int, float, str):
        return {"value": structure}
    kind = type(structure).__name__
    if COLLECTIONS.get(kind) is not type(structure):
        raise RuntimeError(
            f"FrozenNet.save: the network returns a {kind}: a file holds tuple, list, dict and OrderedDict"
        )
    if not isinstance(structure, dict):
        return {kind: [_encoded(item) for item in structure]}
    for key in structure:
        if type(key) not in (bool, int, float, str):
            raise RuntimeError(
                f"FrozenNet.save: the network returns a dict with the key {key!r}, no text or number"
            )
    return {kind: [[key, _encoded(item)] for key, item in structure.items()]}


def _decoded(encoded: Any, outputs: int) -> Any:
    ((kind, content),) = encoded.items()
    if kind == "output":
        if type(content) is not int or not 0 <= content < outputs:
            raise ValueError(f"there is no output {content!r}")
        return Leaf(content)
    if kind == "value":
        return content
    make = COLLECTIONS[kind]
    if issubclass(make, dict):
        return make((key, _decoded(item, outputs)) for key, item in content)
    return make(_decoded(item, outputs) for item in content)


def _safetensors(user: str) -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError(f"{user} needs safetensors: pip install safetensors") from None
    return safetensors.torch
