"""The program `lenet-ext` from its first line on: `import lenet_ext` imports torch, which takes seconds.

It lies outside of the package, since the package itself is imported before any module in it.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType


def main() -> None:
    """The console script."""
    begin()
    from lenet_ext.cli import main

    main()


def begin() -> None:
    """From here on Ctrl-C ends the process with exit code 130, an ImportError with one line and exit code 2.

    Ctrl-C as an exception would be no good here: where it comes while C++ calls Python, in an import or in
    torch.export, it is swallowed, turned into another error, or ends in an abort. `stopping.py` has what
    is done about it while there is something to put in order.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as by nohup
        signal.signal(signal.SIGINT, exit_at_once)
    sys.excepthook = _show


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """A signal handler: the exit code is what a shell shows for a program that the signal ended."""
    os._exit(128 + number)


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, ImportError):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"lenet-ext: error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)
