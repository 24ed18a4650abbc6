"""ImageSizes: the images for which a captured graph is what the model computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

__all__ = ["ImageSizes"]

# Any number of images will do where conditions speak of it.
SOME_BATCH = 2


@dataclass(frozen=True)
class ImageSizes:
    """The sizes of an image, (C, H, W) or (features,), without the batch.

    While it traced the model, torch.export took height and width for unknowns and noted what it took for
    granted of them. Another size is as good as the example's if it fits all of that.

    example: of the example. names: of the unknowns, None where a size is fixed. conditions: on these, as
    Python expressions. batch_name: what they call the size of the batch, of which they hold whatever it is.
    """

    example: tuple[int, ...]
    names: tuple[str | None, ...] = ()
    conditions: tuple[str, ...] = ()
    batch_name: str = "_"
    # Their function and not their text, which torch.compile could not follow.
    _hold: Callable[..., object] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        unknowns = dict.fromkeys(name for name in self.names if name is not None)
        arguments = ", ".join([self.batch_name, *unknowns])
        text = f"lambda {arguments}: {' and '.join(self.conditions) or True}"
        object.__setattr__(self, "_hold", eval(text, {"math": math}))

    def __reduce__(self) -> tuple[type[ImageSizes], tuple[Any, ...]]:
        return ImageSizes, (self.example, self.names, self.conditions, self.batch_name)

    @classmethod
    def of(cls, program: ExportedProgram, example: Tensor) -> ImageSizes:
        """Those that `program`, traced with `example`, holds for."""
        sizes = tuple(example.shape[1:])
        (input,) = (
            node.meta["val"]
            for node in program.graph.nodes
            if node.name in program.graph_signature.user_inputs
        )
        batch, *others = input.shape
        names = tuple(str(size) if isinstance(size, torch.SymInt) else None for size in others)
        if not any(names):
            return cls(sizes)
        environment = batch.node.shape_env
        if environment.deferred_runtime_asserts:
            return cls(sizes)
        try:
            conditions = [_python(guard.expr) for guard in environment.guards]
            for symbol, interval in program.range_constraints.items():
                if str(symbol) in names:
                    conditions += [f"{symbol} >= {interval.lower}", f"{symbol} <= {_python(interval.upper)}"]
            found = cls(sizes, names, tuple(f"({condition})" for condition in conditions), str(batch))
            return found if found._fits(sizes) else cls(sizes)
        except Exception:
            return cls(sizes)  # the conditions are in a form that is not known here

    def include(self, sizes: tuple[int, ...]) -> bool:
        """Whether the graph holds for images of these sizes."""
        return sizes == self.example or self._fits(sizes)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises RuntimeError, from `name`, for images (N, ...) that the model may treat in another way."""
        sizes = tuple(shape[1:])
        if len(sizes) == len(self.example) and not self.include(sizes):
            raise RuntimeError(
                f"{name}: the network was fused for {self.text()}, and may compute something else for "
                f"{tuple(shape)}: call lenet_ext.fuse with an example of that shape"
            )

    def _fits(self, sizes: tuple[int, ...]) -> bool:
        if len(sizes) != len(self.names):
            return False
        unknowns: dict[str, int] = {}
        for name, size, expected in zip(self.names, sizes, self.example, strict=True):
            if size != (expected if name is None else unknowns.setdefault(name, size)):
                return False
        try:
            return bool(self._hold(SOME_BATCH, **unknowns))
        except ArithmeticError:
            return False  # for example a division by a size that is 0

    def text(self) -> str:
        """The example's sizes, with N for the batch."""
        return f"(N, {', '.join(map(str, self.example))})"


def _python(expression: Any) -> str:
    """A condition of torch.export's as Python code."""
    # Here, since sympy takes as long to import as half of torch.
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.printers import PythonPrinter

    return "math.inf" if expression == int_oo else str(PythonPrinter().doprint(expression))
