"""What is registered is what is used: the parameters of a network's modules as they are at each call.

A fused network has the modules of its model. What it computes was read once; so the modules must stay what
they were then: layers of the same kinds and arguments, without hooks, which nobody would call. Their
parameters may be replaced, of other sizes too, and so may modules by others of their kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lenet_ext._C import Watch
from lenet_ext.engine.capture.errors import layer_name

__all__ = ["Layout", "Registered"]

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# Where torch.nn.utils.parametrize keeps what a parameter is computed from.
PARAMETRIZATIONS = "parametrizations"


@dataclass(frozen=True)
class Layout:
    """What the modules were when the network was read.

    parameters: their dotted names. kinds: of the modules, by path, what decides what each computes, its
    parameters apart. eval_only: the modules that were read in eval mode and are random in training mode.
    """

    parameters: tuple[str, ...]
    kinds: Mapping[str, str]
    eval_only: tuple[str, ...]

    @classmethod
    def of(cls, root: nn.Module, parameters: Sequence[str], eval_only: Sequence[str]) -> Layout:
        return cls(tuple(parameters), _kinds_of(root), tuple(eval_only))

    def check(self, root: nn.Module) -> None:
        """Raises RuntimeError, naming the layer, where `root` has something else, or what would be passed
        over.
        """
        found = _kinds_of(root)
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
        for path in self.eval_only:
            if root.get_submodule(path).training:
                where = layer_name(path, type(root).__name__)
                raise RuntimeError(
                    f"FusedNet: {where} is random in training mode, and was fused in eval mode: call eval()"
                )


def _kinds_of(root: nn.Module) -> dict[str, str]:
    return {
        path: _kind_of(module)
        for path, module in root.named_modules(remove_duplicate=False)
        if path and PARAMETRIZATIONS not in path.split(".")
    }


def _kind_of(module: nn.Module) -> str:
    # A parametrized layer is of a class made for it, our layers are of classes derived from torch's.
    known = (cls for cls in type(module).__mro__ if cls.__module__.startswith("torch.nn.modules."))
    kind = next(known, nn.Module)
    if isinstance(module, nn.Linear):
        arguments = f"bias={module.bias is not None}"
    elif isinstance(module, nn.Conv2d):
        names = ("stride", "padding", "dilation", "groups", "padding_mode")
        arguments = ", ".join(f"{name}={getattr(module, name)}" for name in names)
        arguments += f", bias={module.bias is not None}"
    else:
        arguments = "" if module._modules else module.extra_repr()
    if kind in (nn.Module, nn.Sequential):
        kind = type(module)
    return f"{kind.__name__}({arguments})"


class Registered:
    """Finds the parameters, looking at the modules anew only where these have changed.

    Nothing here belongs to the network's state: copies begin anew.
    """

    def __init__(self) -> None:
        self.shape: torch.Size | None = None  # of the last images that were found to fit
        self.watch = Watch()  # false where another look is needed
        self._parameters: list[Tensor] = []
        self._owners: list[tuple[nn.Module, str]] = []  # of parameters that are computed at each access

    def __deepcopy__(self, memo: dict[int, Any]) -> Registered:
        return Registered()

    def __reduce__(self) -> tuple[type[Registered], tuple[()]]:
        return Registered, ()

    def parameters(self, root: nn.Module, layout: Layout) -> list[Tensor]:
        """Those of the network below `root`: the same list as before if nothing has changed.

        Raises RuntimeError, naming the layer, where the modules are no longer as `layout` says.
        """
        if not self.watch:
            self._look(root, layout)
        if self._owners:
            return [_attribute(owner, name) for owner, name in self._owners]
        return self._parameters

    def _look(self, root: nn.Module, layout: Layout) -> None:
        self.watch = Watch()  # which is filled where nothing is refused
        layout.check(root)
        watch = Watch()
        for module in root.modules():
            watch.items(module._modules)
            watch.items(module._parameters)
            if module is not root:
                for hooks in HOOKS:
                    watch.items(getattr(module, hooks))
        for path in layout.eval_only:
            watch.attribute(root.get_submodule(path), "training")
        places = [path.rpartition(".") for path in layout.parameters]
        owners = [(root.get_submodule(owner), name) for owner, _, name in places]
        self._parameters = [_attribute(owner, name) for owner, name in owners]
        registered = all(owner._parameters.get(name) is not None for owner, name in owners)
        # A replica has plain attributes, a parametrization and FSDP compute them.
        self._owners = [] if registered else owners
        self.watch = watch


def _attribute(owner: nn.Module, name: str) -> Tensor:
    value = getattr(owner, name, None)
    if not isinstance(value, Tensor):
        _refuse(f"{type(owner).__name__} has no tensor named {name} any more")
    return value


def _refuse(reason: str) -> NoReturn:
    raise RuntimeError(f"FusedNet: {reason}: call lenet_ext.fuse(model, example_input) again")
