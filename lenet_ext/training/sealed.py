"""Sealed files: safetensors files in which no byte can change unnoticed, and no pickle.

The header's metadata has one entry, a JSON object: the SHA-256 of the whole file, as it is with zeros in that
place, and whatever the file says of itself. So even a byte that means nothing is vouched for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from lenet_ext.training.errors import InputError, error_text, os_error_text
from lenet_ext.training.files import check_is_file

NO_CHECKSUM = "0" * hashlib.sha256().digest_size * 2


@dataclass(frozen=True)
class SealedFile:
    """What a file says of itself, and its verified bytes."""

    entry: dict[str, Any]
    content: bytes

    def tensors(self) -> dict[str, Tensor]:
        """Raises what safetensors does: another program may have sealed the file."""
        return load(self.content)


def sealed(name: str, entry: Mapping[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """The file's bytes: `entry`, under `name`, which has no "sha256", and tensors that share no memory."""
    whole = {"sha256": NO_CHECKSUM, **entry}  # which is then the first such text in the file
    content = save(tensors, {name: json.dumps(whole)})
    checksum = hashlib.sha256(content).hexdigest()
    return content.replace(NO_CHECKSUM.encode(), checksum.encode(), 1)


def read_sealed(path: Path, name: str, kind: str, version: int) -> SealedFile:
    """Read and verify `path`; an `InputError` if it is missing, damaged, or no `kind` of this program.

    name: of its entry. version: what the entry has as its "format".
    """
    try:
        check_is_file(path)
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {os_error_text(error)}") from error
    entry = _header_entry(path, name, kind, content)
    checksum = entry.pop("sha256", None)
    if entry.get("format") != version:
        raise InputError(f"{path}: format {entry.get('format')!r}, this version reads format {version}")
    if not _is_checksum(checksum, content):
        raise InputError(f"{path}: corrupt: the content does not match its SHA-256 checksum")
    return SealedFile(entry, content)


def _header_entry(path: Path, name: str, kind: str, content: bytes) -> dict[str, Any]:
    """The JSON object in a well-formed safetensors file: a 64-bit length, the JSON header, the values."""
    header_length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + header_length])
    except (ValueError, RecursionError) as error:
        reason = error_text(error)
        raise InputError(f"{path}: truncated or corrupt, or not a safetensors file: {reason}") from error
    try:
        entry = json.loads(header["__metadata__"][name])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: a safetensors file, but not a {kind} of lenet-ext") from error
    if not isinstance(entry, dict):
        raise InputError(f"{path}: a safetensors file, but not a {kind} of lenet-ext")
    return entry


def _is_checksum(checksum: object, content: bytes) -> bool:
    """Whether this is the SHA-256 of `content` with zeros in its place."""
    if not (isinstance(checksum, str) and re.fullmatch("[0-9a-f]{64}", checksum)):
        return False
    return checksum == hashlib.sha256(content.replace(checksum.encode(), NO_CHECKSUM.encode(), 1)).hexdigest()
