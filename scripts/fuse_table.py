"""Writes the table of what `fuse` takes into README.md, from the readers of operators themselves."""

from __future__ import annotations

from pathlib import Path

from lenet_ext.engine.capture.readers import ROWS

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- table: scripts/fuse_table.py -->\n", "<!-- end of table -->\n"


def table() -> str:
    """The rows in markdown; operators that exist in place too have an underscore in parentheses."""
    lines = ["| what `fuse` takes | as these operators |", "|---|---|"]
    for row in ROWS:
        plain = [
            name for name in row.operators if name.removesuffix("_") not in row.operators or name[-1] != "_"
        ]
        shown = (f"`{name}(_)`" if f"{name}_" in row.operators else f"`{name}`" for name in plain)
        lines.append(f"| {row.layers} | {', '.join(shown)} |")
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    """`text` with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
