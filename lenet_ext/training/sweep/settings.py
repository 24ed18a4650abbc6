"""sweep.json: the settings of a sweep, which `--resume` reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lenet_ext.training.errors import InputError, error_text, os_error_text
from lenet_ext.training.files import check_is_file
from lenet_ext.training.network import network_of
from lenet_ext.training.own_network import OwnNetwork
from lenet_ext.training.sweep.config import new_sweep
from lenet_ext.training.sweep.state import Sweep

SETTINGS = "sweep.json"
FORMAT = 1


@dataclass(frozen=True)
class Settings:
    """options: of `resumed_sweep`. chunk: how many members are trained at once."""

    options: dict[str, Any]
    chunk: int
    data_sha256: str
    own: OwnNetwork | None


def settings_text(sweep: Sweep) -> str:
    """What `read_settings` reads, and what else a reader may want to know."""
    content = {
        "format": FORMAT,
        "options": sweep.config.options(),
        "chunk": sweep.chunk_size,
        "data_sha256": sweep.data_sha256,
        "own_network": None if sweep.own is None else asdict(sweep.own),
        "network": network_of(sweep.dataset),
        "class_names": sweep.dataset.class_names,
        "mean": sweep.normalize.mean,
        "std": sweep.normalize.std,
        "torch": torch.__version__,
    }
    return json.dumps(content, indent=2) + "\n"


def read_settings(path: Path) -> Settings:
    """Raises `InputError` for a file that no sweep has written."""
    try:
        check_is_file(path)
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {os_error_text(error)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged: {error_text(error)}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: format {found!r}, this version reads format {FORMAT}")
    try:
        own = content["own_network"]
        settings = Settings(
            content["options"],
            content["chunk"],
            content["data_sha256"],
            None if own is None else OwnNetwork(**own),
        )
        if new_sweep(settings.options).options() != settings.options:
            raise ValueError("an option is missing")
        if type(settings.chunk) is not int or settings.chunk < 1:
            raise ValueError("chunk must be at least 1")
        if (own is None) != (settings.options["model"] is None):
            raise ValueError("own_network does not fit the option model")
    except (AttributeError, InputError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the settings of a sweep: {error_text(error)}") from error
    return settings
