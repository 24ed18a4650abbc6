"""Runnable: a mode of a fused network with all that a call needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from lenet_ext.engine.capture import ImageSizes, Leaf, Mode
from lenet_ext.engine.network import Network

__all__ = ["Runnable", "collected"]


@dataclass(frozen=True)
class Runnable:
    """A mode of a network as it is run.

    is_single: whether it returns a tensor and no collection. is_random: whether it needs a seed. updated: the
    numbers of the tensors that a forward changes.
    """

    network: Network
    program: str
    sizes: ImageSizes
    structure: Any
    counters: tuple[str | None, ...]
    is_single: bool
    is_random: bool
    updated: tuple[int, ...]

    @classmethod
    def of(cls, mode: Mode) -> Runnable:
        network = mode.network
        return cls(
            *(network, network.program(), mode.sizes, mode.structure, mode.counters),
            *(isinstance(mode.structure, Leaf), network.is_random, network.updated),
        )

    def collected(self, outputs: Sequence[Tensor]) -> Any:
        """The outputs as the model returns them."""
        return collected(self.structure, outputs)


def collected(structure: Any, outputs: Sequence[Any]) -> Any:
    """The outputs in the places of the Leaves of `structure`."""
    return tree_map(lambda leaf: outputs[leaf.output] if isinstance(leaf, Leaf) else leaf, structure)
