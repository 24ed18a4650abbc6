"""Finds the chain of layers that an unmodified network is, with torch.export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram, ShapesCollection

from lenet_ext.engine.capture.chain import Chain
from lenet_ext.engine.capture.errors import ELSEWHERE, CannotFuse, layer_name
from lenet_ext.engine.layers import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU

__all__ = ["CannotFuse", "Conv2d", "Flatten", "Layer", "Linear", "MaxPool2d", "ReLU", "capture"]

# torch.export takes sizes of 0 and 1 for constants.
SMALLEST_BATCH = 2
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def capture(model: torch.nn.Module, example_input: Tensor) -> list[Layer]:
    """The layers that `model` applies one after the other, read from its forward.

    model: computes one tensor from one, by a chain of conv2d, relu, max_pool2d, linear and flattening, as
    modules or functions of torch or of lenet_ext, nested in any way. Dropout must be in eval mode or of p=0.
    Nothing of it is changed. example_input: (N, C, H, W) or (N, features), N of any size, in the model's
    dtype and on its device, which may be meta: its data is not looked at.

    Returns the layers with the names of their parameters; a parameter with several names goes by its first.
    Raises TypeError where an argument has the wrong type, and CannotFuse, a RuntimeError that names the
    operator and the layer, for every model that is something else.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"fuse: model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(example_input, Tensor):
        raise TypeError(f"fuse: example_input must be a Tensor, got {type(example_input).__name__}")
    kind = type(model).__name__
    try:
        _check_modules(model)
        program = _export(model, example_input)
        return Chain(program, _parameter_names(model, program), kind).layers
    except CannotFuse as error:
        if example_input.dim() in (2, 4):
            raise
        wanted = "(N, C, H, W) or (N, features)"
        shape = tuple(example_input.shape)
        note = f"example_input must have a batch dimension, {wanted}, and has shape {shape}"
        raise CannotFuse(f"{error} ({note})") from error.__cause__


def _parameter_names(model: torch.nn.Module, program: ExportedProgram) -> dict[str, str]:
    """The first name of each parameter, by the name of its placeholder in the graph."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    placeholders = program.graph_signature.inputs_to_parameters
    return {node: names[id(model.get_parameter(name))] for node, name in placeholders.items()}


def _check_modules(model: torch.nn.Module) -> None:
    """Refuses what tracing would set off, or would not see."""
    for path, module in model.named_modules():
        where = layer_name(path, type(module).__name__)
        if any(torch.nn.parameter.is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise CannotFuse(f"fuse: {where} has no parameters yet: call the model once first")
        if any(getattr(module, kind) for kind in HOOKS):
            users = "spectral_norm, weight_norm and pruning work by hooks"
            raise CannotFuse(f"fuse: {where} has hooks, which would not be called ({users}); {ELSEWHERE}")


def _export(model: torch.nn.Module, example: Tensor) -> ExportedProgram:
    """The graph of `model` for a batch of any size, in grad mode so that a no_grad inside forward shows."""
    with (
        _unchanged(model),
        torch.random.fork_rng(devices=()),
        torch.inference_mode(False),  # ends no_grad as well
        _no_autocast(example.device.type),
    ):
        try:
            batch = example.detach().new_empty((max(len(example), SMALLEST_BATCH), *example.shape[1:]))
            shapes = ShapesCollection()
            shapes[batch] = {0: Dim("batch")}
            dynamic = shapes.dynamic_shapes(model, (batch,))
            return torch.export.export(model, (batch,), dynamic_shapes=dynamic, strict=False)
        except Exception as error:
            cause = _cause(error)
            failure = (
                f"fuse: torch.export cannot follow {type(model).__name__} for batches of any size: {cause}"
            )
            raise CannotFuse(f"{failure}; {ELSEWHERE}") from error


def _cause(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if any(line.startswith("Constraints violated") for line in lines):
        return "it works for some batch sizes only, as with view(4, -1) or len(x) instead of flatten(1)"
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _no_autocast(device_type: str) -> torch.autocast:
    available = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type if available else "cpu", enabled=False)


@contextmanager
def _unchanged(model: torch.nn.Module) -> Iterator[None]:
    """Undoes what tracing leaves in the modules of `model`, as by `self.features = x` in its forward."""
    spaces = [module.__dict__ for module in model.modules()]
    spaces += [value for space in spaces for value in space.values() if isinstance(value, dict)]
    before = [dict(space) for space in spaces]
    try:
        yield
    finally:
        for space, content in zip(spaces, before, strict=True):
            space.clear()
            space.update(content)
