"""The one exception that the program turns into one line on stderr, and the check for optional packages."""

from __future__ import annotations

import importlib
import re

EXTRA_OF_MODULE = {
    "typer": "cli",
    "rich": "cli",
    "safetensors": "cli",
    "numpy": "data",
    "PIL": "data",
    "sklearn": "data",
    "matplotlib": "plot",
}


class InputError(Exception):
    """Something the user gave is wrong. The text names the file or option and what was wanted."""


def require(*modules: str) -> None:
    """Import these optional modules; an `InputError` says which extra to install for a missing one."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            extra = EXTRA_OF_MODULE[module]
            raise InputError(
                f"this command needs the package {module} ({error}): pip install 'lenet_ext[{extra}]'"
            ) from error
        except Exception as error:  # e.g. matplotlib, of a settings file in the current folder
            raise InputError(f"the package {module} cannot be imported: {error}") from error


def os_error_text(error: OSError) -> str:
    """What the operating system said, without the error number and the path."""
    return error.strerror or str(error)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; on the CPU only the text of torch's error tells."""
    texts = "not enough memory|can't allocate memory|out of memory|bad_alloc|std::bad_array_new_length"
    return isinstance(error, MemoryError) or re.search(texts, str(error)) is not None
