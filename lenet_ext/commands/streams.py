"""Standard output and standard error that the work outlives: its product may be files."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any


class Stream(io.FileIO):
    """A descriptor that drops what it cannot write; `failure` is the first error."""

    failure: OSError | None = None

    def __init__(self, descriptor: int, title: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.title = title

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
        return len(data)


@contextmanager
def lasting_streams() -> Iterator[list[Stream]]:
    """Put such streams in the place of `sys.stdout` and `sys.stderr`, where these are files or terminals.

    Characters that the encoding lacks are written as escapes, as Python does for standard error.
    """
    before = sys.stdout, sys.stderr
    raw: list[Stream] = []
    sys.stdout = _lasting(sys.stdout, "standard output", raw)
    sys.stderr = _lasting(sys.stderr, "standard error", raw)
    try:
        yield raw
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _lasting(stream: Any, title: str, raw: list[Stream]) -> Any:
    if stream is None:  # closed before the program began
        return open(os.devnull, "w")
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # in memory, as in tests
        return stream
    raw.append(Stream(descriptor, title))
    buffer: IO[bytes] = io.BufferedWriter(raw[-1])
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors in ("strict", "surrogateescape") else stream.errors,
        # With PYTHONUNBUFFERED Python writes through to the descriptor; here a buffer would keep it back.
        line_buffering=stream.line_buffering or stream.write_through,
    )
