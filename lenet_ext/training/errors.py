"""The one exception that the program turns into lines on stderr, and the check for optional packages."""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Sequence

EXTRA_OF_MODULE = {
    "typer": "cli",
    "rich": "cli",
    "safetensors": "cli",
    "numpy": "data",
    "PIL": "data",
    "sklearn": "data",
    "matplotlib": "plot",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "ray": "sweep",
}

# Control characters, halves of a surrogate pair (how Python holds bytes that are not UTF-8), line separators.
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
LISTED = 20  # of many errors of the same kind


class InputError(Exception):
    """Something the user gave is wrong. Each text is a line: the file or option, and what was wanted."""

    def __init__(self, *texts: str) -> None:
        super().__init__("\n".join(printable(text) for text in texts))


class ProcessEnded(Exception):
    """Another process of those that train together has ended; without a text, it says itself why."""


def refuse_all(texts: Sequence[str], summary: str) -> None:
    """Raise one `InputError` for all of `texts`, if there are any: the first ones after a `summary`."""
    if len(texts) == 1:
        raise InputError(texts[0])
    if texts:
        others = [f"and {len(texts) - LISTED} more"] if len(texts) > LISTED else []
        raise InputError(summary, *texts[:LISTED], *others)


def printable(text: str) -> str:
    """`text` with escapes such as \\x1b for what a terminal obeys or can't print; names can hold it."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in UNPRINTABLE else char
        for char in text
    )


def require(*modules: str) -> None:
    """Import these optional modules; an `InputError` says which extra to install for a missing one."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            needed = f"this command needs the package {module} ({error_text(error)})"
            extra = EXTRA_OF_MODULE[module]
            raise InputError(f"{needed}: pip install 'lenet_ext[{extra}]'") from error
        except Exception as error:  # e.g. matplotlib, of a settings file in the current folder
            raise InputError(f"the package {module} cannot be imported: {error_text(error)}") from error


def error_text(error: Exception | str) -> str:
    """What a library said, in one line."""
    return " ".join(str(error).split())


def os_error_text(error: OSError) -> str:
    """What the operating system said, without the error number and the path."""
    return error.strerror or str(error)


def out_of_memory_text(error: BaseException | None) -> str | None:
    """What to say if `error`, or what it came from, is that memory ran out; None if not.

    On the CPU only the text of torch's error tells.
    """
    texts = "not enough memory|can't allocate memory|out of memory|bad_alloc"
    while error is not None:
        if isinstance(error, MemoryError) or re.search(texts, str(error)):
            wanted = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
            return "not enough memory" + (f" for {wanted[1]} more" if wanted else "")
        error = error.__cause__ or error.__context__
    return None
