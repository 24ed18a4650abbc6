"""Signals while a network is trained: they end the program in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from _lenet_ext_cli import exit_at_once

if TYPE_CHECKING:
    from typing_extensions import Self

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # Windows lacks the last two


class Stopped(BaseException):
    """A signal ends the program. No KeyboardInterrupt, which typer treats in ways that differ by version."""

    def __init__(self, number: int) -> None:
        super().__init__(number)  # and no text, so that pickle can hand it to other processes
        self.exit_code = 128 + number
        self.text = f"stopped by {signal.Signals(number).name}"

    def __str__(self) -> str:
        return self.text


@contextmanager
def signals_noted() -> Iterator[Callable[[], None]]:
    """Within this, the first signal is noted, and the function that this gives raises `Stopped` from then on.

    A second signal ends the process where it is; one that is ignored stays so: `nohup` means it. Nothing is
    raised from within a handler, since destructors and callbacks of C++ swallow exceptions.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        for signal_number in handlers:
            signal.signal(signal_number, exit_at_once)

    def raise_noted() -> None:
        if noted:
            raise Stopped(noted[0])

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    handlers = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in handlers:
        signal.signal(number, note)
    try:
        yield raise_noted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class StoppedInOrder:
    """A context manager in which signals end the program in order once `begin` was called."""

    def __init__(self) -> None:
        self.cleanup = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup.close()

    def begin(self) -> None:
        self.raise_noted = self.cleanup.enter_context(signals_noted())

    def going_on(self) -> None:
        self.raise_noted()
