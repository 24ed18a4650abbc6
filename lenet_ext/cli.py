"""The program `lenet-ext`: errors of the user's become one line on stderr and exit code 2."""

from __future__ import annotations

import sys

from lenet_ext.training.errors import InputError, os_error_text, require


def main() -> None:
    """Run `sys.argv` and exit: 0 done, 1 `check` found a mismatch, 2 bad input, 130 interrupted."""
    try:
        require("typer", "rich")  # before the import below, which needs both
        from lenet_ext.commands.app import run

        code = run(sys.argv[1:])
    except InputError as error:
        code = _complain(str(error))
    except OSError as error:  # e.g. a folder that this user may not look into
        code = _complain(f"{error.filename}: {os_error_text(error)}")
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _complain(message: str) -> int:
    one_line = " ".join(message.split())
    print(f"lenet-ext: error: {one_line}", file=sys.stderr)
    return 2
