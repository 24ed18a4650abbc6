"""The program `lenet-ext`: errors of the user's become a line each on stderr and exit code 2."""

from __future__ import annotations

import os
import re
import sys

from lenet_ext.commands.stopping import Stopped
from lenet_ext.commands.streams import Stream, lasting_streams
from lenet_ext.training.errors import (
    InputError,
    ProcessEnded,
    os_error_text,
    out_of_memory_text,
    printable,
    require,
)


def main() -> None:
    """Run `sys.argv` and exit: 0 done, 1 `check` found a mismatch, 2 bad input, 128 + n ended by signal n.

    2 also where memory, output, or another process of the run failed.
    """
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("0*[1-9][0-9]{0,3}", os.environ.get(name, "")):
            os.environ.pop(name, None)  # rich would show nothing at all in 0 columns
    with lasting_streams() as streams:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
        code = max(code, *map(_lost, streams), 0)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        require("typer", "rich")  # before the import below, which needs both
        from lenet_ext.commands.app import run

        return run(arguments)
    except (InputError, ProcessEnded) as error:
        return _complain(str(error))
    except OSError as error:  # e.g. a folder that this user may not look into
        where = "" if error.filename is None else f"{error.filename}: "
        return _complain(printable(f"{where}{os_error_text(error)}"))
    except Stopped as stopped:
        return stopped.exit_code
    except KeyboardInterrupt:  # `main` was called in a Python that makes Ctrl-C this exception
        return 130
    except Exception as error:
        message = out_of_memory_text(error)
        if message is None:
            raise
        return _complain(message)


def _lost(stream: Stream) -> int:
    """2 if output was lost, but to a reader that had enough of it."""
    if stream.failure is None or isinstance(stream.failure, BrokenPipeError):
        return 0
    return _complain(f"{stream.title}: {os_error_text(stream.failure)}")


def _complain(message: str) -> int:
    for line in message.splitlines():
        print(f"lenet-ext: error: {printable(line)}", file=sys.stderr)
    return 2
