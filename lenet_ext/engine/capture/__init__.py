"""Reads what an unmodified network computes, with torch.export, as a Network for each mode."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram, ShapesCollection

from lenet_ext.engine.capture.builder import Entry, counters
from lenet_ext.engine.capture.errors import ELSEWHERE, CannotFuse, layer_name
from lenet_ext.engine.capture.modes import Flags, known_to_ask, mode_modules, noted, patterns
from lenet_ext.engine.capture.reader import Leaf, Reader
from lenet_ext.engine.capture.sizes import ImageSizes
from lenet_ext.engine.network import Network, Node
from lenet_ext.engine.reasons import against

__all__ = ["CannotFuse", "Captured", "ImageSizes", "Leaf", "Mode", "capture"]

# torch.export takes sizes of 0 and 1 for constants.
SMALLEST_BATCH = 2
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# torch.export patches torch.nn.Module while it traces: two threads would undo each other's patches.
_EXPORTS = threading.Lock()


@dataclass(frozen=True)
class Mode:
    """What a model computes in one of its modes.

    sizes: of the images that this holds for. structure: what the model returns, where a Leaf stands for an
    output of the network. counters: the names of the numbers of batches, of the batch norms that change their
    running statistics, in order; None where it has none.
    """

    network: Network
    sizes: ImageSizes
    structure: Any
    counters: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Captured:
    """What a model computes in each mode that was read.

    parameters, buffers: the names of the tensors of its networks by their numbers, those with gradients
    first, in the model's order. paths: of the modules whose modes matter. modes: by the flags of these, the
    network, or why it cannot be fused.
    """

    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    paths: tuple[str, ...]
    modes: Mapping[Flags, Mode | str]

    @property
    def network(self) -> Network:
        """That of the first mode that can be fused: the one in which the model was handed over, if it can."""
        return next(mode.network for mode in self.modes.values() if isinstance(mode, Mode))


def capture(model: torch.nn.Module, example_input: Tensor, name: str = "FusedNet") -> Captured:
    """What `model` computes in each of its modes, read from its forward; the networks are called `name`.

    model: computes tensors from one, by layers that have a reader (capture/readers), as modules or functions
    of torch or of lenet_ext, nested in any way. It is read as it is handed over, in training mode, and in
    eval mode; nothing of it is changed. example_input: the first dimension is the batch, of any size, in the
    model's dtype and on its device, which may be meta: its data is not looked at.

    A parameter with several names goes by its first. Raises TypeError where an argument has the wrong type,
    and CannotFuse, a RuntimeError that names the operator and the layer, where no mode can be fused: for the
    reason in the mode as handed over.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"fuse: model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(example_input, Tensor):
        raise TypeError(f"fuse: example_input must be a Tensor, got {type(example_input).__name__}")
    try:
        _check_modules(model)
        with _EXPORTS:
            paths, found = _read_modes(model, example_input)
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
    readers = [reader for reader, _ in found.values() if isinstance(reader, Reader)]
    used = {name for reader in readers for entry in reader.entries for name in entry.parameters}
    parameters = tuple(path for path, _ in model.named_parameters() if path in used)
    buffers = tuple(path for path, _ in model.named_buffers() if path in used)
    numbers = {path: number for number, path in enumerate((*parameters, *buffers))}
    modes: dict[Flags, Mode | str] = {}
    for pattern, (reader, sizes) in found.items():
        if isinstance(reader, Reader):
            network = _network(name, reader.entries, reader.outputs, numbers)
            modes[pattern] = Mode(network, sizes, reader.structure, counters(reader.entries))
        else:
            modes[pattern] = str(reader)
    return Captured(parameters, buffers, paths, modes)


_Found: TypeAlias = dict[Flags, tuple[Reader | CannotFuse, ImageSizes]]


def _read_modes(model: torch.nn.Module, example: Tensor) -> tuple[tuple[str, ...], _Found]:
    """The modules whose modes matter, and what the model is in each; raises CannotFuse if it is nothing."""
    every, asked, found = mode_modules(model), known_to_ask(model), _Found()
    for pattern in patterns(model, every):
        if found and not asked:
            break  # nothing looks at a mode
        modes = dict(zip(every, pattern, strict=True))
        try:
            with noted(model, asked):
                found[pattern] = _read(model, example, modes)
        except CannotFuse as error:
            found[pattern] = error, ImageSizes(tuple(example.shape[1:]))
    places = [place for place, path in enumerate(every) if path in asked]
    paths = tuple(every[place] for place in places)
    # The first of those that differ in nothing that was asked for.
    found = {tuple(pattern[i] for i in places): found[pattern] for pattern in reversed(found)}
    found = dict(reversed(found.items()))
    results = [result for result, _ in found.values()]
    if isinstance(results[0], CannotFuse) and not any(isinstance(result, Reader) for result in results):
        raise results[0]
    return paths, found


def _read(model: torch.nn.Module, example: Tensor, modes: dict[str, bool]) -> tuple[Reader, ImageSizes]:
    """The layers, for images of any height and width if these make no difference, else for the example's."""
    if example.dim() >= 3:
        try:
            program = _export(model, example, modes, any_size=True)
            return _reader(model, program), ImageSizes.of(program, example)
        except CannotFuse:
            pass  # which the export below says better, if it is one for the example's size too
    program = _export(model, example, modes, any_size=False)
    return _reader(model, program), ImageSizes.of(program, example)


def _reader(model: torch.nn.Module, program: ExportedProgram) -> Reader:
    """The layers, with the first name of each parameter and buffer."""
    signature, known = program.graph_signature, {}
    for placeholders, tensors in (
        (signature.inputs_to_parameters, model.named_parameters()),
        (signature.inputs_to_buffers, model.named_buffers()),
    ):
        names = {id(tensor): name for name, tensor in tensors}
        for node, path in placeholders.items():
            owner, _, name = path.rpartition(".")
            known[node] = names[id(getattr(model.get_submodule(owner), name))]
    return Reader(program, known, type(model).__name__)


def _network(name: str, entries: list[Entry], outputs: list[int], numbers: dict[str, int]) -> Network:
    nodes = (
        Node(entry.layer, entry.values, tuple(numbers[path] for path in entry.parameters), entry.where)
        for entry in entries
    )
    return Network(name, tuple(nodes), tuple(outputs))


def _check_modules(model: torch.nn.Module) -> None:
    """Refuses what tracing would set off, or would not see."""
    for path, module in model.named_modules():
        where = layer_name(path, type(module).__name__)
        if any(torch.nn.parameter.is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise CannotFuse(f"fuse: {where} has no parameters yet: call the model once first")
        if any(p.is_inference() and p.requires_grad for p in module.parameters(recurse=False)):
            how = "make the model outside of it, or call requires_grad_(False)"
            raise CannotFuse(f"fuse: {where} has parameters made in torch.inference_mode: {how}")
        if isinstance(module, torch.nn.RNNBase):
            kind = type(module).__name__
            raise CannotFuse(
                f"fuse: {where} ({kind}) is recurrent: the engine has no such layer; {ELSEWHERE}"
            )
        if any(getattr(module, kind) for kind in HOOKS):
            users = "spectral_norm, weight_norm and pruning work by hooks"
            raise CannotFuse(f"fuse: {where} has hooks, which would not be called ({users}); {ELSEWHERE}")


def _export(
    model: torch.nn.Module, example: Tensor, modes: Mapping[str, bool], any_size: bool
) -> ExportedProgram:
    """The graph of `model` for a batch of any size, in grad mode so that a no_grad inside forward shows.

    modes: by the paths of modules, whether they are in training mode.
    """
    with (
        _unchanged(model),
        torch.random.fork_rng(devices=()),
        torch.inference_mode(False),  # ends no_grad as well
        _no_autocast(example.device.type),
    ):
        modules = dict(model.named_modules())
        for path, training in modes.items():
            modules[path].training = training
        for module in model.modules():
            # Or the graph would divide by the number of batches.
            if isinstance(module, torch.nn.modules.batchnorm._NormBase) and module.momentum is None:
                module.momentum = float("nan")
        try:
            batch = example.detach().new_empty((max(len(example), SMALLEST_BATCH), *example.shape[1:]))
            shapes, dims = ShapesCollection(), dict[int, Any]({0: Dim("batch")})
            if any_size:
                dims |= dict.fromkeys(range(2, example.dim()), Dim.AUTO)
            shapes[batch] = dims
            dynamic = shapes.dynamic_shapes(model, (batch,))
            return torch.export.export(model, (batch,), dynamic_shapes=dynamic, strict=False)
        except Exception as error:
            own = _own_failure(model, example)
            if own is not None:
                raise CannotFuse(
                    f"fuse: {type(model).__name__} itself fails for example_input: {own}"
                ) from error
            cause = _cause(error)
            failure = (
                f"fuse: torch.export cannot follow {type(model).__name__} for batches of any size: {cause}"
            )
            raise CannotFuse(f"{failure}; {ELSEWHERE}") from error


def _own_failure(model: torch.nn.Module, example: Tensor) -> str | None:
    """What the model says to such images by itself; None where it takes them, or that cannot be tried."""
    if example.is_meta:
        return None
    try:
        own = copy.deepcopy(model)  # which a call may change
    except Exception:
        return None
    try:
        with torch.no_grad():
            own(torch.zeros_like(example))
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


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
