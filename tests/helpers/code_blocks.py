"""The code blocks of a Markdown document, run as a reader would."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n*^```text\n(.*?)^```\n)?", re.S | re.M)


class Block(NamedTuple):
    """output: of the block ```text right below, "" where there is none."""

    code: str
    output: str


def python_blocks(document: Path) -> list[Block]:
    return [Block(code, output) for code, output in _BLOCK.findall(document.read_text())]


def run(block: Block, names: dict[str, object]) -> str:
    """What the block prints; `names` are those that earlier blocks left, and get its own."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block.code, names)
    return printed.getvalue()
