"""Whole networks with any layers, outputs and recipes: how one is described, and where they are read from."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.tasks import Model, Shape, Task

OWN = "own"
OWN_FOLDER = Path(__file__).parents[1] / "tests/helpers"  # whose networks.py has them
OWN_OPTIMIZER = ("SGD", {"lr": 0.01, "momentum": 0.9})

FORMAT = """\
A file of networks is a Python file with a list ZOO. Each entry has these attributes:
  name    of the network, unlike all others
  source  where it was published
  make    a function without arguments that returns the torch.nn.Module, in training mode
  shapes  of its inputs without the batch, a tuple of tuples
  opt     the name of an optimizer of torch.optim, and a dict of its options
  loss    a name of torch.nn's losses: {losses};
          any other name stands for a loss of the network's own
  dtypes  optional: of its inputs, torch.float32 where it is missing"""

# By the names that a file gives them. "ce_of_softmax": of outputs that went through a softmax already.
LOSSES: Mapping[str, Callable[[], nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "ce_of_softmax": nn.CrossEntropyLoss,
    "nll": nn.NLLLoss,
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "smooth_l1": nn.SmoothL1Loss,
    "huber": nn.HuberLoss,
    "bce": nn.BCELoss,
    "bce_logits": nn.BCEWithLogitsLoss,
}
OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
FORMAT = FORMAT.format(losses=", ".join(LOSSES))


class MalformedError(Exception):
    """A file of networks that is missing or not as `FORMAT` says; the message is one line."""


@dataclass(frozen=True, eq=False)
class Network(Model):
    """A network with its recipe.

    shapes: of all inputs; `image` is the first. optimizer: its name in torch.optim, and its options. loss: a
    name of `LOSSES`; any other stands for a loss that is no module of torch's. dtype: of the inputs.
    """

    source: str = ""
    shapes: Sequence[Shape] = ()
    optimizer: tuple[str, Mapping[str, Any]] = OWN_OPTIMIZER
    loss: str = ""
    dtype: torch.dtype = torch.float32

    @cached_property
    def first_is_all(self) -> bool:
        """Whether all parameters have a part in the first output, which a loss is about."""
        task = Task(model=self, batch=2, direction="")
        module = task.module()
        with torch.enable_grad():
            outputs = module(task.images())
            if isinstance(outputs, Tensor):
                return True
            first_output(outputs).sum().backward()
        return all(parameter.grad is not None for parameter in module.parameters())

    @cached_property
    def is_random(self) -> bool:
        """Whether it is in training mode, as with dropout."""
        task = Task(model=self, batch=2, direction="")
        module, images = task.module().train(), task.images()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            first, second = (tree_leaves(module(images)) for _ in range(2))
        return not all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if torch.is_tensor(a))

    def example(self) -> Tensor:
        """Two inputs, as a caller would hand them over."""
        return Task(model=self, batch=2, direction="").images().to(self.dtype)

    def loss_module(self) -> nn.Module | None:
        """That of torch.nn; None for a loss of the network's own, or about more than the first output."""
        return LOSSES[self.loss]() if self.loss in LOSSES and self.first_is_all else None

    def make_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        name, options = self.optimizer
        optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(module.parameters(), **options)
        return optimizer

    def targets(self, images: Tensor) -> Tensor:
        """For its loss, the same each time."""
        with torch.no_grad():
            shape = first_output(self.make().to(images.dtype).eval()(images.contiguous())).shape
        generator = torch.Generator().manual_seed(2)
        if isinstance(self.loss_module(), OF_CLASSES):
            return torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
        return torch.rand(shape, generator=generator).to(images.dtype)

    def recipe(self) -> str:
        """The optimizer and the loss, for tables."""
        return f"{self.optimizer[0]}, {self.loss if self.loss_module() else 'a loop'}"


def first_output(outputs: Any) -> Tensor:
    """The first tensor of a tuple, a list or a dict; or the only one."""
    return next(one for one in tree_leaves(outputs) if isinstance(one, Tensor))


def read_networks(where: str) -> list[Network]:
    """`OWN`: those of the tests; else the path of a file. Raises MalformedError."""
    return _own() if where == OWN else _of_file(Path(where))


def _own() -> list[Network]:
    if not (OWN_FOLDER / "networks.py").is_file():
        raise MalformedError(f"{OWN_FOLDER / 'networks.py'} is missing: give a file of networks")
    with _importable(OWN_FOLDER):
        examples = importlib.import_module("networks").NETWORKS
    return [
        Network(name, one.shape, partial(_copy, one), source="tests", shapes=(one.shape,), loss="mse")
        for name, one in examples.items()
    ]


def _copy(example: Any) -> nn.Module:
    """All that an example builds has the same modules."""
    return copy.deepcopy(example.build())


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """While modules of `folder` can be imported by name."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _of_file(path: Path) -> list[Network]:
    entries = getattr(_module(path), "ZOO", None)
    if not isinstance(entries, (list, tuple)) or not entries:
        raise MalformedError(f"{path} has no list ZOO of networks")
    networks = [_network(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, 1)]
    names = [network.name for network in networks]
    for name in names:
        if names.count(name) > 1:
            raise MalformedError(f"{path} has {names.count(name)} networks named {name!r}")
    return networks


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise MalformedError(f"{path} is no file")
    name = f"{__name__}.file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise MalformedError(f"{path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where its dataclasses look
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MalformedError(f"{path} cannot be imported: {one_line(error)}") from error
    return module


def _network(entry: Any, where: str) -> Network:
    values = {}
    for name, is_right, wanted in CHECKS:
        if not hasattr(entry, name):
            raise MalformedError(f"{where} has no {name}")
        values[name] = getattr(entry, name)
        if not is_right(values[name]):
            raise MalformedError(f"{where}: {name} must be {wanted}, got {values[name]!r}")
    shapes, optimizer = tuple(values["shapes"]), tuple(values["opt"])
    dtype = next(iter(getattr(entry, "dtypes", (torch.float32,))))
    facts = {"source": values["source"], "shapes": shapes, "optimizer": optimizer, "loss": values["loss"]}
    return Network(values["name"], shapes[0], values["make"], dtype=dtype, **facts)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_shapes(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_shape, value))


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(size, int) and size > 0 for size in value)


def _is_optimizer(value: Any) -> bool:
    if not (isinstance(value, (list, tuple)) and len(value) == 2):
        return False
    name, options = value
    kind = getattr(torch.optim, name, None) if isinstance(name, str) else None
    return isinstance(kind, type) and isinstance(options, Mapping)


CHECKS: Sequence[tuple[str, Callable[[Any], bool], str]] = (
    ("name", _is_text, "a str"),
    ("source", _is_text, "a str"),
    ("make", callable, "a function"),
    ("shapes", _are_shapes, "a tuple of tuples of sizes"),
    ("opt", _is_optimizer, "the name of an optimizer of torch.optim and a dict of its options"),
    ("loss", _is_text, "a str"),
)


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
