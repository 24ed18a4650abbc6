"""Reads what an unmodified network computes, with torch.export, as a Network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram, ShapesCollection

from lenet_ext.engine.capture.chain import Chain, Entry
from lenet_ext.engine.capture.errors import ELSEWHERE, CannotFuse, layer_name
from lenet_ext.engine.capture.sizes import ImageSizes
from lenet_ext.engine.network import Network, Node
from lenet_ext.engine.reasons import against

__all__ = ["CannotFuse", "Captured", "ImageSizes", "capture"]

# torch.export takes sizes of 0 and 1 for constants.
SMALLEST_BATCH = 2
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# torch.export patches torch.nn.Module while it traces: two threads would undo each other's patches.
_EXPORTS = threading.Lock()


@dataclass(frozen=True)
class Captured:
    """A network, the names of its parameters by their numbers, and what it holds for.

    sizes: of images. eval_only: the paths of modules that must be in eval mode, as they were.
    """

    network: Network
    parameters: tuple[str, ...]
    sizes: ImageSizes
    eval_only: tuple[str, ...]


def capture(model: torch.nn.Module, example_input: Tensor, name: str = "FusedNet") -> Captured:
    """What `model` computes, read from its forward; the network is called `name`.

    model: computes one tensor from one, by a chain of conv2d, relu, max_pool2d, linear and flattening, as
    modules or functions of torch or of lenet_ext, nested in any way. Dropout must be in eval mode or of p=0.
    Nothing of it is changed. example_input: (N, C, H, W) or (N, features), N of any size, in the model's
    dtype and on its device, which may be meta: its data is not looked at.

    A parameter with several names goes by its first; one that is used twice is named twice. Raises TypeError
    where an argument has the wrong type, and CannotFuse, a RuntimeError that names the operator and the
    layer, for every model that is something else.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"fuse: model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(example_input, Tensor):
        raise TypeError(f"fuse: example_input must be a Tensor, got {type(example_input).__name__}")
    try:
        _check_modules(model)
        with _EXPORTS:
            chain, sizes = _read(model, example_input)
    except CannotFuse as error:
        reason = against("fuse", example_input, dict(model.named_parameters()), noun="example_input")
        if reason is not None:
            raise CannotFuse(str(reason)) from error.__cause__
        if example_input.dim() in (2, 4):
            raise
        wanted = "(N, C, H, W) or (N, features)"
        shape = tuple(example_input.shape)
        note = f"example_input must have a batch dimension, {wanted}, and has shape {shape}"
        raise CannotFuse(f"{error} ({note})") from error.__cause__
    parameters = _in_order(model, chain.entries)
    network = _network(name, chain.entries, parameters)
    # Those in training mode were told in another way that they are not to be random.
    eval_only = (path for path in chain.eval_only if not model.get_submodule(path).training)
    return Captured(network, parameters, sizes, tuple(eval_only))


def _read(model: torch.nn.Module, example: Tensor) -> tuple[Chain, ImageSizes]:
    """The layers, for images of any height and width if these make no difference, else for the example's."""
    if example.dim() == 4:
        try:
            program = _export(model, example, any_size=True)
            return _chain(model, program), ImageSizes.of(program, example)
        except CannotFuse:
            pass  # which the export below says better, if it is one for the example's size too
    program = _export(model, example, any_size=False)
    return _chain(model, program), ImageSizes.of(program, example)


def _chain(model: torch.nn.Module, program: ExportedProgram) -> Chain:
    """The layers, with the first name of each parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    placeholders = program.graph_signature.inputs_to_parameters
    known = {node: names[id(model.get_parameter(name))] for node, name in placeholders.items()}
    return Chain(program, known, type(model).__name__)


def _in_order(model: torch.nn.Module, entries: list[Entry]) -> tuple[str, ...]:
    """The parameters as the model has them, and behind these once more those that are used again."""
    used = [name for entry in entries for name in entry.parameters]
    ordered = [name for name, _ in model.named_parameters() if name in used]
    again = used.copy()
    for name in ordered:
        again.remove(name)
    return *ordered, *again


def _network(name: str, entries: list[Entry], parameters: tuple[str, ...]) -> Network:
    free: dict[str, list[int]] = {}
    for number, parameter in enumerate(parameters):
        free.setdefault(parameter, []).append(number)
    nodes = (
        Node(layer, (i,), tuple(free[parameter].pop(0) for parameter in own), where)
        for i, (layer, own, where) in enumerate(entries)
    )
    return Network(name, tuple(nodes), (len(entries),))


def _check_modules(model: torch.nn.Module) -> None:
    """Refuses what tracing would set off, or would not see."""
    for path, module in model.named_modules():
        where = layer_name(path, type(module).__name__)
        if any(torch.nn.parameter.is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise CannotFuse(f"fuse: {where} has no parameters yet: call the model once first")
        if any(p.is_inference() and p.requires_grad for p in module.parameters(recurse=False)):
            how = "make the model outside of it, or call requires_grad_(False)"
            raise CannotFuse(f"fuse: {where} has parameters made in torch.inference_mode: {how}")
        if any(getattr(module, kind) for kind in HOOKS):
            users = "spectral_norm, weight_norm and pruning work by hooks"
            raise CannotFuse(f"fuse: {where} has hooks, which would not be called ({users}); {ELSEWHERE}")


def _export(model: torch.nn.Module, example: Tensor, any_size: bool) -> ExportedProgram:
    """The graph of `model` for a batch of any size, in grad mode so that a no_grad inside forward shows."""
    with (
        _unchanged(model),
        torch.random.fork_rng(devices=()),
        torch.inference_mode(False),  # ends no_grad as well
        _no_autocast(example.device.type),
    ):
        try:
            batch = example.detach().new_empty((max(len(example), SMALLEST_BATCH), *example.shape[1:]))
            shapes, dims = ShapesCollection(), dict[int, Any]({0: Dim("batch")})
            if any_size:
                dims |= {2: Dim.AUTO, 3: Dim.AUTO}
            shapes[batch] = dims
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
