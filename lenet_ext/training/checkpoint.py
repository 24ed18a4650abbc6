"""Checkpoints: one safetensors file with everything that an exact resumption needs, and no pickle.

Tensors are named `<engine>/weight/<name>`, parameters and buffers, and
`<engine>/optimizer/<key>/<parameter>`, where the key is torch's name of a part of the optimizer's state. The
entry of the sealed file is `Metadata`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lenet_ext.training.errors import InputError, error_text
from lenet_ext.training.files import write_atomically
from lenet_ext.training.learner import Learner, optimizer_state, restore_optimizer, state_keys
from lenet_ext.training.loop import Run
from lenet_ext.training.metadata import Metadata, checked
from lenet_ext.training.network import network_of
from lenet_ext.training.sealed import read_sealed, sealed

HEADER_ENTRY = "lenet_ext"
KIND = "checkpoint"
FORMAT = 3


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, and the file that it came from (for messages)."""

    path: Path
    metadata: Metadata
    tensors: dict[str, Tensor]


def save_checkpoint(
    path: Path,
    run: Run,
    data_sha256: str,
    tensors: dict[str, Tensor] | None = None,
    frozen: dict[str, Any] | None = None,
) -> None:
    """Write the run's state to `path`, atomically.

    tensors, frozen: of a run without learners, in place of theirs: the tensors, and the
    `frozen_description` of the network that was trained.
    """
    if tensors is None:
        tensors, frozen = {}, run.learners[0].description()
        for learner in run.learners:
            tensors.update(state_tensors(learner.name, learner.model, learner.optimizer))
    metadata = checked(
        Metadata(
            format=FORMAT,
            config=asdict(run.config),
            network=network_of(run.dataset),
            class_names=run.dataset.class_names,
            mean=run.normalize.mean,
            std=run.normalize.std,
            data_sha256=data_sha256,
            epoch=run.epoch,
            step=run.epoch * run.steps_per_epoch,
            history=run.history,
            own_network=None if run.own is None else asdict(run.own),
            frozen=frozen,
        )
    )
    write_atomically(path, sealed(HEADER_ENTRY, asdict(metadata), tensors))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify `path`; an `InputError` if it is missing, damaged, or no checkpoint of this program."""
    file = read_sealed(path, HEADER_ENTRY, KIND, FORMAT)
    # From here on the file is as somebody wrote it, if not necessarily this program.
    try:
        return Checkpoint(path, checked(Metadata(**file.entry)), file.tensors())
    except (
        InputError,
        SafetensorError,
        ArithmeticError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(f"{path}: not a checkpoint of lenet-ext: {error_text(error)}") from error


def restore_learners(checkpoint: Checkpoint, learners: Sequence[Learner]) -> None:
    """Give every learner its weights and the state of its optimizer back."""
    for learner in learners:
        restore_weights(checkpoint, learner.model, learner.name)
        states = optimizer_state_in(checkpoint.tensors, learner.name)
        wanted = state_keys(learner.config) if checkpoint.metadata.epoch > 0 else set()
        if states.keys() != wanted:
            texts = (" and ".join(sorted(keys)) or "nothing" for keys in (states.keys(), wanted))
            reason = "holds {} of the optimizer's state, wanted {}".format(*texts)
            raise InputError(f"{checkpoint.path}: {reason}")
        having = {name for tensors in states.values() for name in tensors}
        for key, tensors in states.items():
            _check_state(checkpoint, key, tensors, learner.model, having)
        restore_optimizer(learner.model, learner.optimizer, states)


def _check_state(
    checkpoint: Checkpoint, key: str, stored: Mapping[str, Tensor], model: nn.Module, having: set[str]
) -> None:
    """having: the parameters that have any state. In a network of the user's own some may be unused."""
    wanted: dict[str, Tensor] = dict(model.named_parameters())
    if checkpoint.metadata.own is not None:
        wanted = {name: parameter for name, parameter in wanted.items() if name in having}
    if key == "step":
        wanted = {name: parameter.new_empty(()) for name, parameter in wanted.items()}
    _check_shapes(checkpoint, stored, wanted)


def restore_weights(checkpoint: Checkpoint, model: nn.Module, engine: str, *, assign: bool = False) -> None:
    """Copy the engine's weights into `model`, or put them in the place of its own with `assign`.

    Raises `InputError` if names or shapes are another network's.
    """
    stored = of_prefix(checkpoint.tensors, f"{engine}/weight/")
    _check_shapes(checkpoint, stored, model.state_dict())
    model.load_state_dict(stored, assign=assign)


def _check_shapes(checkpoint: Checkpoint, stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in sorted(stored.keys() | wanted.keys()):
        has, needs = (_shape_text(tensors.get(name)) for tensors in (stored, wanted))
        if has != needs:
            raise InputError(
                f"{checkpoint.path}: a checkpoint of another network: {name} is {has}, here it is {needs}"
            )


def state_tensors(engine: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, buffers and the optimizer's state under their names in a checkpoint."""
    tensors = {f"weight/{name}": tensor for name, tensor in model.state_dict().items()}
    for key, state in optimizer_state(model, optimizer).items():
        tensors.update({f"optimizer/{key}/{name}": tensor for name, tensor in state.items()})
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        # safetensors takes no tensors that share memory, such as a parameter under two names.
        copied = tensor.clone(memory_format=torch.contiguous_format) if place in seen else tensor.contiguous()
        result[f"{engine}/{name}"] = copied
        seen.add(place)
    return result


def optimizer_state_in(tensors: Mapping[str, Tensor], engine: str) -> dict[str, dict[str, Tensor]]:
    """That of the engine's optimizer, as `optimizer_state` gave it."""
    states: dict[str, dict[str, Tensor]] = {}
    for path, tensor in of_prefix(tensors, f"{engine}/optimizer/").items():
        key, _, name = path.partition("/")
        states.setdefault(key, {})[name] = tensor
    return states


def of_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _shape_text(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
