"""Writes the tables of what `fuse` takes into README.md and docs/engine.md, from the readers of operators."""

from __future__ import annotations

import re
from pathlib import Path

from lenet_ext.engine.capture.readers import ROWS, Row

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: scripts/fuse_table.py -->\n", "<!-- end of table -->\n"
# What the table of families leaves to that of operators.
DETAILS = re.compile(" without .*|,? with the .*| with padding of zeros|,? over .*")
# The modules of lenet_ext.engine.capture.readers; those of "fused" are calls of what is fused already.
FAMILIES = {
    "core": "convolution, linear",
    "activations": "activations, arithmetic with numbers",
    "norm": "normalization, dropout",
    "pools": "pools",
    "combine": "joining, arithmetic",
    "shapes": "shapes",
}


def plain_operators(row: Row) -> list[str]:
    """Without those that are others in place."""
    return [name for name in row.operators if name.removesuffix("_") not in row.operators or name[-1] != "_"]


def families() -> str:
    """A row for each family of layers, in markdown."""
    lines = ["| | `fuse` takes |", "|---|---|"]
    for family, title in FAMILIES.items():
        shown: list[str] = []
        for row in ROWS:
            if row.family == family and row.layers == "Activations":
                shown += [name for name in plain_operators(row) if "." not in name]
            elif row.family == family:
                shown.append(DETAILS.sub("", row.layers))
        lines.append(f"| {title} | {', '.join(dict.fromkeys(shown))} |")
    return "\n".join(lines) + "\n"


def operators() -> str:
    """A row for each kind of layer with its operators; those that exist in place too have an underscore."""
    lines = ["| layers | operators |", "|---|---|"]
    for row in ROWS:
        names = plain_operators(row)
        shown = (f"`{name}(_)`" if f"{name}_" in row.operators else f"`{name}`" for name in names)
        lines.append(f"| {row.layers} | {', '.join(shown)} |")
    return "\n".join(lines) + "\n"


TABLES = {ROOT / "README.md": families, ROOT / "docs/engine.md": operators}


def written(text: str, table: str) -> str:
    """`text` with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table}{END}{after}"


if __name__ == "__main__":
    for document, table in TABLES.items():
        document.write_text(written(document.read_text(), table()))
