"""Signals while a network is trained: they end the program in order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from _lenet_ext_cli import exit_at_once

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # Windows lacks the last two


class Stopped(BaseException):
    """A signal ends the program. No KeyboardInterrupt, which typer treats in ways that differ by version."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@contextmanager
def stopped_in_order() -> Iterator[None]:
    """Within this, the first signal raises `Stopped`, a second one ends the process where it is.

    A signal that is ignored stays so: `nohup` means it.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for signal_number in handlers:
            signal.signal(signal_number, exit_at_once)
        raise Stopped(number)

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    handlers = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in handlers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
