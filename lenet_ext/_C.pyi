from collections.abc import Sequence
from typing import Any

from torch import Tensor

def build_info() -> dict[str, Any]:
    """Version, compiler, instruction sets built and in use, CUDA and its architectures, torch target."""

def cpu_isa() -> str:
    """The instruction set in use: "avx512", "avx2", "neon" or "scalar"."""

def activations() -> list[str]:
    """The names of the engine's activations."""

def losses() -> dict[str, tuple[list[str], list[str]]]:
    """The engine's losses by its names for them.

    Of each the attributes of torch's module that are numbers, and those that are tensors.
    """

def optimizers() -> dict[str, tuple[list[str], list[str], bool]]:
    """The engine's optimizers by the names of their classes in torch.optim.

    Of each the options of its parameter groups, the tensors of a parameter's state, and whether it counts
    steps.
    """

def saved_sizes(
    program: str, images: Sequence[int], parameters: Sequence[Sequence[int]]
) -> tuple[list[list[int]], int, int, int]:
    """What a network gives and saves for backward, for images (N, ...) and parameters of these shapes.

    The sizes of its outputs, without N; the values of each image and of the batch's statistics, and the bytes
    of each image. Raises RuntimeError where the shapes do not fit the network.
    """

def in_forked_child() -> bool:
    """Whether this process is the child of a fork, which does not have its parent's threads."""

class FrozenNetwork:
    """A network for inference alone, whose call takes a tensor or an array of images."""

    def __init__(
        self,
        program: str,
        dtype: str,
        parameters: Sequence[Tensor],
        normalization: Tensor | None,
        single: bool,
    ) -> None: ...
    def __call__(self, images: Any) -> Any: ...

class BoundStep:
    """A step of network_train with all that it takes but images, targets and the seeds of dropout."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        state: Sequence[Tensor],
        options: Tensor,
        counts: Sequence[Tensor],
        program: str,
        normalization: Tensor | None,
        loss_weight: Tensor | None,
        loss_pos_weight: Tensor | None,
    ) -> None: ...
    def __call__(self, images: Tensor, targets: Tensor, seeds: Tensor | None, /) -> Tensor | None:
        """The loss; None where it is left to the operator.

        For tensors that are not plain ones on the CPU, and where something follows the operators that are
        called: autograd, transforms, dispatch modes, autocast, the profiler.
        """

class Watch:
    """True while containers and attributes hold the very objects that they held when they were first watched.

    False where nothing is watched.
    """

    def items(self, container: dict[Any, Any] | list[Any]) -> None:
        """Watches all that a dict or a list holds."""

    def attribute(self, object: object, name: str) -> None:
        """Watches what an attribute is."""

    def also(self, other: Watch) -> None:
        """Watches what `other` does."""

    def __bool__(self) -> bool: ...
