"""A program in a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from processes import SEARCHED


class Terminal:
    """`python ...` in a pseudo-terminal; `screen` is everything it wrote so far."""

    def __init__(self, *arguments: str | Path, columns: int = 80, **environment: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        variables = {**os.environ, "TERM": "xterm", "PYTHONPATH": SEARCHED, **environment}
        for name in ("COLUMNS", "LINES"):
            if name not in environment:
                variables.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=variables,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.screen = ""

    def read_until(self, text: str | None = None, seconds: float = 120) -> str:
        """Read until `text` is on the screen, or to the end of the program."""
        deadline = time.monotonic() + seconds
        while text is None or text not in self.screen:
            assert time.monotonic() < deadline, self.screen
            try:
                chunk = os.read(self.master, 65536)
            except OSError:  # how Linux reports that nobody has the terminal open any more
                chunk = b""
            if not chunk:
                assert text is None, self.screen
                break
            self.screen += chunk.decode(errors="replace")
        return self.screen

    def finish(self) -> int:
        """Wait for the end of the program; its exit code, negative for a signal."""
        self.read_until()
        code = self.process.wait(60)
        os.close(self.master)
        return code
