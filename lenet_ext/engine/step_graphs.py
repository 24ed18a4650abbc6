"""StepGraphs: training steps on a GPU as CUDA graphs, so that a step is one launch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

__all__ = ["StepGraphs"]

# Calls of one kind before it is captured: the first loads kernels, which a capture forbids.
WARM_UP_CALLS = 2
# Kinds that are kept: a full batch, the last of an epoch, and a few more.
MOST_KINDS = 8

Step = Callable[[Tensor, Tensor], Tensor]


class StepGraphs:
    """Calls a step directly at first, and once a kind of call repeats, by a graph of its kernels.

    A graph reads its images and targets from tensors of its own, into which each call copies. Whatever else
    the step depends on must be in `kind`: sizes, dtypes, the addresses of tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._kinds: OrderedDict[Hashable, int | _Graph] = OrderedDict()  # how many calls, then the graph

    def run(self, step: Step, kind: Hashable, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of step(images, targets)."""
        known = self._kinds.get(kind, 0)
        if isinstance(known, int):
            if known < WARM_UP_CALLS:
                loss = step(images, targets)
                self._keep(kind, known + 1)  # not before: a call that raises is none to be captured
                return loss
            known = _Graph(step, images, targets)
        self._keep(kind, known)
        return known.replay(images, targets)

    def _keep(self, kind: Hashable, known: int | _Graph) -> None:
        self._kinds[kind] = known
        self._kinds.move_to_end(kind)
        if len(self._kinds) > MOST_KINDS:
            self._kinds.popitem(last=False)


class _Graph:
    """The kernels of a step, recorded without running them."""

    def __init__(self, step: Step, images: Tensor, targets: Tensor) -> None:
        with torch.inference_mode(False):  # a replay writes into them in any mode
            self._images = torch.empty_like(images, memory_format=torch.contiguous_format)
            self._targets = torch.empty_like(targets, memory_format=torch.contiguous_format)
        with torch.cuda.device_of(images):  # whose current stream is captured
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._loss = step(self._images, self._targets)

    def replay(self, images: Tensor, targets: Tensor) -> Tensor:
        self._images.copy_(images)
        self._targets.copy_(targets)
        with torch.cuda.device_of(images):
            self._graph.replay()
        return self._loss.clone()  # the next replay writes into it
