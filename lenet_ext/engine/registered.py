"""What is registered is what is used: the parameters and buffers of a network's modules at each call.

A fused network has the modules of its model. What it computes was read once; so the modules must stay what
they were then: layers of the same kinds and arguments, without hooks, which nobody would call. Their
parameters may be replaced, of other sizes too, and so may modules by others of their kind. In which mode
each of them is decides which of the networks that were read is the one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from lenet_ext._C import Watch
from lenet_ext.engine.capture.modes import Flags, flags

if TYPE_CHECKING:
    from lenet_ext.engine.capture import Captured
    from lenet_ext.engine.runnable import Runnable

__all__ = ["Layout", "Registered", "attribute", "counts", "kinds_of"]

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# Where torch.nn.utils.parametrize keeps what a parameter is computed from.
PARAMETRIZATIONS = "parametrizations"


@dataclass(frozen=True)
class Layout:
    """What the modules were when the network was read.

    parameters, buffers: their dotted names. kinds: of the modules, by path, what decides what each computes,
    its parameters and its mode apart. paths: of the modules whose modes matter.
    """

    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    kinds: Mapping[str, str]
    paths: tuple[str, ...]

    @classmethod
    def of(cls, root: nn.Module, captured: Captured) -> Layout:
        return cls(captured.parameters, captured.buffers, kinds_of(root), captured.paths)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all that the network takes, in its order."""
        return *self.parameters, *self.buffers

    def check(self, root: nn.Module) -> None:
        """Raises RuntimeError, naming the layer, where `root` has something else, or what would be passed
        over.
        """
        found = kinds_of(root)
        for path in sorted(self.kinds.keys() | found.keys()):
            was, now = self.kinds.get(path), found.get(path)
            if was is None:
                _refuse(f'layer "{path}" is new, a {now}')
            if now is None:
                _refuse(f'layer "{path}" is gone, which was a {was}')
            if was != now:
                _refuse(f'layer "{path}" was a {was} and is a {now} now')
        for path, module in root.named_modules():
            if path and any(getattr(module, hooks) for hooks in HOOKS):
                users = "weight_norm, spectral_norm and pruning work by hooks"
                _refuse(f'layer "{path}" has hooks, which would not be called ({users})')


def kinds_of(root: nn.Module) -> dict[str, str]:
    """By path what decides what each module computes, its parameters and its mode apart."""
    return {
        path: _kind_of(module)
        for path, module in root.named_modules(remove_duplicate=False)
        if path and PARAMETRIZATIONS not in path.split(".")
    }


def _kind_of(module: nn.Module) -> str:
    # A parametrized layer is of a class made for it, our layers are of classes derived from torch's.
    known = (cls for cls in type(module).__mro__ if cls.__module__.startswith("torch.nn.modules."))
    kind = next(known, nn.Module)
    names: tuple[str, ...] = ()
    if isinstance(module, nn.Linear):
        arguments = f"bias={module.bias is not None}"
    elif isinstance(module, nn.modules.conv._ConvNd):
        names = ("stride", "padding", "output_padding", "dilation", "groups", "padding_mode")
        arguments = ", ".join(f"{name}={getattr(module, name)}" for name in names)
        arguments += f", bias={module.bias is not None}"
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        names = ("eps", "momentum", "affine", "track_running_stats")
        arguments = ", ".join(f"{name}={getattr(module, name)}" for name in names)
    else:
        arguments = "" if module._modules else module.extra_repr()
    if kind in (nn.Module, nn.Sequential):
        kind = type(module)
    return f"{kind.__name__}({arguments})"


class Registered:
    """Finds the parameters and buffers, looking at the modules anew only where these have changed.

    Nothing here belongs to the network's state: copies begin anew.
    """

    def __init__(self) -> None:
        self.shape: torch.Size | None = None  # of the last images that were found to fit
        self.flags: Flags = ()  # the modes of the modules
        self.mode: Runnable | None = None  # the network in these modes, once asked for, and then:
        self.counts: list[Tensor] = []  # of the batches that its batch norms have seen
        self.watch = Watch()  # false where another look is needed
        self._tensors: list[Tensor] = []
        self._owners: list[tuple[nn.Module, str]] = []  # of tensors that are computed at each access

    def __deepcopy__(self, memo: dict[int, Any]) -> Registered:
        return Registered()

    def __reduce__(self) -> tuple[type[Registered], tuple[()]]:
        return Registered, ()

    def tensors(self, root: nn.Module, layout: Layout) -> list[Tensor]:
        """Those of the network below `root`: the same list as before if nothing has changed.

        Raises RuntimeError, naming the layer, where the modules are no longer as `layout` says.
        """
        if not self.watch:
            self._look(root, layout)
        if self._owners:
            return [attribute(owner, name) for owner, name in self._owners]
        return self._tensors

    def _look(self, root: nn.Module, layout: Layout) -> None:
        self.watch, self.shape, self.mode = Watch(), None, None  # which are filled where nothing is refused
        layout.check(root)
        watch = Watch()
        for module in root.modules():
            watch.items(module._modules)
            watch.items(module._parameters)
            watch.items(module._buffers)
            if module is not root:
                for hooks in HOOKS:
                    watch.items(getattr(module, hooks))
        for path in layout.paths:
            watch.attribute(root.get_submodule(path), "training")
        self.flags = flags(root, layout.paths)
        places = [path.rpartition(".") for path in layout.tensors]
        owners = [(root.get_submodule(owner), name) for owner, _, name in places]
        self._tensors = [attribute(owner, name) for owner, name in owners]
        registered = all(
            owner._parameters.get(name) is not None or owner._buffers.get(name) is not None
            for owner, name in owners
        )
        # A replica has plain attributes, a parametrization and FSDP compute them.
        self._owners = [] if registered else owners
        self.watch = watch


def counts(root: nn.Module, counters: Sequence[str | None]) -> list[Tensor]:
    """The tensors called `counters`; new ones for batch norms that do not count."""
    found = []
    for path in counters:
        if path is None:
            found.append(torch.zeros((), dtype=torch.int64))
        else:
            owner, _, name = path.rpartition(".")
            found.append(attribute(root.get_submodule(owner), name))
    return found


def attribute(owner: nn.Module, name: str) -> Tensor:
    value = getattr(owner, name, None)
    if not isinstance(value, Tensor):
        _refuse(f"{type(owner).__name__} has no tensor named {name} any more")
    return value


def _refuse(reason: str) -> NoReturn:
    raise RuntimeError(f"FusedNet: {reason}: call lenet_ext.fuse(model, example_input) again")
