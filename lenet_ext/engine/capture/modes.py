"""The modes in which a network is read: which of its modules are in training mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import nn

__all__ = ["Flags", "flags", "known_to_ask", "mode_modules", "noted", "patterns", "unread"]

# Of modules, one after the other: whether they are in training mode.
Flags: TypeAlias = tuple[bool, ...]

# Those of torch's whose forward asks for the mode.
_ASKING = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._NormBase,
    nn.RReLU,
    nn.MultiheadAttention,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.modules.rnn.RNNBase,
)
_OURS = ("torch.nn.modules.", "lenet_ext.nn")


def known_to_ask(root: nn.Module) -> set[str]:
    """The paths of the modules of torch's whose forward looks at its mode."""
    return {path for path, module in root.named_modules() if isinstance(module, _ASKING)}


def mode_modules(root: nn.Module) -> tuple[str, ...]:
    """The paths of the modules whose mode may matter: some of torch's, and all of other classes."""
    return tuple(path for path, module in root.named_modules() if _asks(module))


def _asks(module: nn.Module) -> bool:
    return isinstance(module, _ASKING) or not type(module).__module__.startswith(_OURS)


@contextmanager
def noted(root: nn.Module, asked: set[str]) -> Iterator[None]:
    """Adds to `asked` the paths of the modules of users' classes whose forward looks at its mode.

    The attribute `training` is a property for that time, of classes derived from theirs.
    """
    known = (*_ASKING, torch.jit.ScriptModule)  # the latter are refused, and their classes special
    changed = [(m, type(m)) for m in root.modules() if _asks(m) and not isinstance(m, known)]
    paths = {id(module): path for path, module in root.named_modules()}

    def read(module: nn.Module) -> bool:
        asked.add(paths[id(module)])
        return bool(module.__dict__["training"])

    def write(module: nn.Module, mode: bool) -> None:
        module.__dict__["training"] = mode

    try:
        for module, kind in changed:
            body = {"training": property(read, write), "__module__": kind.__module__}
            module.__class__ = type(kind.__name__, (kind,), body)
        yield
    finally:
        for module, kind in changed:
            module.__class__ = kind


def flags(root: nn.Module, paths: Sequence[str]) -> Flags:
    """The modes of the modules at `paths`."""
    modules = dict(root.named_modules(remove_duplicate=False))
    return tuple(modules[path].training for path in paths)


def patterns(root: nn.Module, paths: Sequence[str]) -> Iterator[Flags]:
    """As the modules are, all in training mode, all in eval mode, as the model's `train` leaves them."""
    found = [flags(root, paths), (True,) * len(paths), (False,) * len(paths)]
    if any(type(module).train is not nn.Module.train for module in root.modules()):
        before = [(module, module.training) for module in root.modules()]
        try:
            for mode in (True, False):
                root.train(mode)
                found.append(flags(root, paths))
        finally:
            for module, mode in before:
                module.training = mode
    return iter(dict.fromkeys(found))


def unread(paths: Sequence[str], now: Flags, known: Iterable[Flags]) -> tuple[str, bool]:
    """The first module, and its mode, in which `now` differs from the nearest of the `known` flags."""
    pairs = [[i for i, flag in enumerate(one) if flag != now[i]] for one in known]
    place = min(pairs, key=lambda pair: (len(pair), pair))[0]
    return paths[place], now[place]
