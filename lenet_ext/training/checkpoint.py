"""Checkpoints: one safetensors file with everything that an exact resumption needs, and no pickle.

Tensors are named `<engine>/weight/<name>`, parameters and buffers, and
`<engine>/optimizer/<key>/<parameter>`, where the key is torch's name of a part of the optimizer's state. The
header's metadata has one entry, a JSON object: the SHA-256 of the whole file, as it is with zeros in that
place, and `Metadata`. So no byte can change unnoticed, not even one that means nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lenet_ext.training.errors import InputError, error_text, os_error_text
from lenet_ext.training.files import check_is_file, write_atomically
from lenet_ext.training.learner import Learner, state_keys
from lenet_ext.training.loop import Run
from lenet_ext.training.metadata import Metadata, checked
from lenet_ext.training.network import network_of

HEADER_ENTRY = "lenet_ext"
FORMAT = 3
NO_CHECKSUM = "0" * hashlib.sha256().digest_size * 2


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, and the file that it came from (for messages)."""

    path: Path
    metadata: Metadata
    tensors: dict[str, Tensor]


def save_checkpoint(path: Path, run: Run, data_sha256: str) -> None:
    """Write the run's state to `path`, atomically."""
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
        )
    )
    tensors = {name: tensor for learner in run.learners for name, tensor in _learner_tensors(learner).items()}
    entry = {"sha256": NO_CHECKSUM, **asdict(metadata)}  # which is then the first such text in the file
    content = save_tensors(tensors, {HEADER_ENTRY: json.dumps(entry)})
    checksum = hashlib.sha256(content).hexdigest()
    write_atomically(path, content.replace(NO_CHECKSUM.encode(), checksum.encode(), 1))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify `path`; an `InputError` if it is missing, damaged, or no checkpoint of this program."""
    try:
        check_is_file(path)
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {os_error_text(error)}") from error
    entry = _header_entry(path, content)
    checksum = entry.pop("sha256", None)
    if entry.get("format") != FORMAT:
        raise InputError(f"{path}: format {entry.get('format')!r}, this version reads format {FORMAT}")
    if not _is_checksum(checksum, content):
        raise InputError(f"{path}: corrupt: the content does not match its SHA-256 checksum")
    # From here on the file is as somebody wrote it, if not necessarily this program.
    try:
        return Checkpoint(path, checked(Metadata(**entry)), load_tensors(content))
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
        states: dict[str, dict[str, Tensor]] = {}
        for path, tensor in _of_prefix(checkpoint, f"{learner.name}/optimizer/").items():
            key, _, name = path.partition("/")
            states.setdefault(key, {})[name] = tensor
        wanted = state_keys(learner.config) if checkpoint.metadata.epoch > 0 else set()
        if states.keys() != wanted:
            texts = (" and ".join(sorted(keys)) or "nothing" for keys in (states.keys(), wanted))
            reason = "holds {} of the optimizer's state, wanted {}".format(*texts)
            raise InputError(f"{checkpoint.path}: {reason}")
        having = {name for tensors in states.values() for name in tensors}
        for key, tensors in states.items():
            _check_state(checkpoint, key, tensors, learner.model, having)
        learner.restore_optimizer(states)


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
    stored = _of_prefix(checkpoint, f"{engine}/weight/")
    _check_shapes(checkpoint, stored, model.state_dict())
    model.load_state_dict(stored, assign=assign)


def _check_shapes(checkpoint: Checkpoint, stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in sorted(stored.keys() | wanted.keys()):
        has, needs = (_shape_text(tensors.get(name)) for tensors in (stored, wanted))
        if has != needs:
            raise InputError(
                f"{checkpoint.path}: a checkpoint of another network: {name} is {has}, here it is {needs}"
            )


def _learner_tensors(learner: Learner) -> dict[str, Tensor]:
    tensors = {f"weight/{name}": tensor for name, tensor in learner.model.state_dict().items()}
    for key, state in learner.optimizer_state().items():
        tensors.update({f"optimizer/{key}/{name}": tensor for name, tensor in state.items()})
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        # safetensors takes no tensors that share memory, such as a parameter under two names.
        copied = tensor.clone(memory_format=torch.contiguous_format) if place in seen else tensor.contiguous()
        result[f"{learner.name}/{name}"] = copied
        seen.add(place)
    return result


def _of_prefix(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(prefix)
    }


def _header_entry(path: Path, content: bytes) -> dict[str, Any]:
    """The JSON object in a well-formed safetensors file: a 64-bit length, the JSON header, the values."""
    header_length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + header_length])
    except (ValueError, RecursionError) as error:
        reason = error_text(error)
        raise InputError(f"{path}: truncated or corrupt, or not a safetensors file: {reason}") from error
    try:
        entry = json.loads(header["__metadata__"][HEADER_ENTRY])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: a safetensors file, but not a checkpoint of lenet-ext") from error
    if not isinstance(entry, dict):
        raise InputError(f"{path}: a safetensors file, but not a checkpoint of lenet-ext")
    return entry


def _is_checksum(checksum: object, content: bytes) -> bool:
    """Whether this is the SHA-256 of `content` with zeros in its place."""
    if not (isinstance(checksum, str) and re.fullmatch("[0-9a-f]{64}", checksum)):
        return False
    return checksum == hashlib.sha256(content.replace(checksum.encode(), NO_CHECKSUM.encode(), 1)).hexdigest()


def _shape_text(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
