"""What can run a network: lenet_ext in its several ways, and every peer."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from lenet_ext.benchmark.peers.networks import Task

Inference = Callable[[], Any]  # returns logits: a tensor, or what numpy.asarray takes

# Far enough for float32 to show the update, and then so small that the network stays what it is: after
# thousands of real steps on one batch its gradients would be denormal numbers, which are slow.
CHECKED_RATE = 0.1
TIMED_RATE = 1e-6
MOMENTUM = 0.9


class Training(ABC):
    """A step of SGD with momentum on one batch."""

    @abstractmethod
    def __call__(self) -> Any:
        """The loss before the update."""

    @abstractmethod
    def set_learning_rate(self, rate: float) -> None:
        """It begins as `CHECKED_RATE`."""

    @abstractmethod
    def parameters(self) -> Sequence[Any]:
        """As they are now, in the order of the model's."""


class Engine(ABC):
    """A way to run a network. What it cannot do (inference, training) it returns None for."""

    name: str
    ours = False
    package: str | None = None  # of Python, where it needs one besides torch
    compiles = False  # for many seconds, with a C++ compiler

    def missing(self) -> str | None:
        """Why it cannot run here; None where it can."""
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            return "not installed"
        if self.compiles and find_compiler() is None:
            return "no C++ compiler"
        return None

    def version(self) -> str | None:
        return None if self.package is None else importlib.metadata.version(self.package)

    def inference(self, task: Task) -> Inference | None:
        return None

    def training(self, task: Task) -> Training | None:
        return None


def find_compiler() -> list[str] | None:
    """The command of a C++ compiler, as torch.compile finds one."""
    command = shlex.split(os.environ.get("CXX", ""))
    name = next(filter(shutil.which, command[:1] or ("g++", "c++", "clang++")), None)
    return None if name is None else command or [name]
