"""The program `lenet-ext`: errors of the user's become one line on stderr and exit code 2."""

from __future__ import annotations

import sys

from lenet_ext.training.errors import InputError, require


def main() -> None:
    """Run `sys.argv` and exit: 0 done, 1 `check` found a mismatch, 2 bad input, 130 interrupted."""
    try:
        require("typer", "rich")  # before the import below, which needs both
        from lenet_ext.commands.app import run

        code = run(sys.argv[1:])
    except InputError as error:
        message = " ".join(str(error).split())
        print(f"lenet-ext: error: {message}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
