"""Lets the tests of the operators, whose tensors are on the CPU, run the kernels of another device.

Operators called with tensors of the CPU take copies to the device, laid out alike, and copy the results back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

cuda_kernels = False  # whether the operators run those of CUDA, emulated or on a GPU, for tensors of the CPU
_libraries: list[torch.library.Library] = []  # an implementation lasts as long as its library


def moved(value: Any, device: torch.device) -> Any:
    """`value`, or a copy of a tensor with the same strides and offset within the same storage."""
    if isinstance(value, (list, tuple)):
        return [moved(part, device) for part in value]
    if not isinstance(value, Tensor):
        return value
    storage = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())
    return storage.to(device, copy=True).as_strided(value.size(), value.stride(), value.storage_offset())


def call_on(
    device: torch.device, operator: Callable[..., Any], overwritten: Sequence[int], *arguments: Any
) -> Any:
    """What `operator` gives for the arguments on the device, on the CPU; some arguments it overwrites."""
    copies = [moved(argument, device) for argument in arguments]
    results = operator(*copies)
    for index in overwritten:
        _copy_back(arguments[index], copies[index])
    return _on_cpu(results)


def _copy_back(target: Any, source: Any) -> None:
    if isinstance(target, Tensor):
        target.detach().copy_(source)  # a leaf that requires a gradient refuses to be changed itself
    elif target is not None:
        for one, other in zip(target, source, strict=True):
            _copy_back(one, other)


def _on_cpu(results: Any) -> Any:
    if isinstance(results, Tensor):
        return results.cpu()
    return None if results is None else type(results)(_on_cpu(result) for result in results)


def run_operators_on(device: torch.device) -> None:
    """From now on, for the rest of the process."""
    global cuda_kernels
    cuda_kernels = True
    library = torch.library.Library("lenet_ext", "IMPL")
    _libraries.append(library)
    # Here, since it loads the package, which the first tests are about.
    from operators import OPERATORS

    for name, entry in OPERATORS.items():
        operator = getattr(torch.ops.lenet_ext, name).default
        implementation = partial(call_on, device, operator, entry.changes)
        library.impl(name, implementation, "CPU", allow_override=True)
