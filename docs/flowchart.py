"""A flowchart of Mermaid's as HTML: rows of boxes, each of which says what its arrows point to.

The host of a repository draws such a chart with a script. The site has none, since that one would come from
another server; boxes of text also fit a narrow screen.
"""

from __future__ import annotations

import html
import re

NODE = r'(\w+)(?:\["(.*?)"\])?'
ARROW = re.compile(rf"{NODE} --> {NODE}")


def as_html(chart: str) -> str:
    """Raises ValueError for a chart with more in it than boxes and arrows downwards."""
    first, *lines = chart.strip().splitlines()
    if first != "flowchart TD":
        raise ValueError(f"wanted a 'flowchart TD', got {first!r}")
    labels: dict[str, str] = {}
    arrows: dict[str, list[str]] = {}
    for line in lines:
        found = ARROW.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"wanted an arrow from box to box, got {line.strip()!r}")
        start, start_label, end, end_label = found.groups()
        for name, label in ((start, start_label), (end, end_label)):
            if label is not None:
                labels[name] = label
        arrows.setdefault(start, []).append(end)
        arrows.setdefault(end, [])
    rows = [
        f'<div class="floor">\n{"".join(_box(n, labels, arrows) for n in row)}</div>' for row in _rows(arrows)
    ]
    return '<div class="flowchart">\n' + "\n".join(rows) + "\n</div>"


def _rows(arrows: dict[str, list[str]]) -> list[list[str]]:
    """The boxes by the longest way that leads to them, so that every arrow points to a later row."""
    rows: list[list[str]] = []
    left = dict(arrows)
    while left:
        pointed_at = {end for ends in left.values() for end in ends}
        row = [name for name in left if name not in pointed_at]
        if not row:
            raise ValueError(f"the arrows between {', '.join(left)} go round in a circle")
        rows.append(row)
        left = {name: ends for name, ends in left.items() if name not in row}
    return rows


def _box(name: str, labels: dict[str, str], arrows: dict[str, list[str]]) -> str:
    # A label is text and line breaks, with the entities of HTML.
    title, *rest = (html.escape(html.unescape(part)) for part in labels.get(name, name).split("<br/>"))
    lines = [f"<strong>{title}</strong>", *rest]
    if arrows[name]:
        ends = [html.escape(html.unescape(labels.get(end, end).split("<br/>")[0])) for end in arrows[name]]
        lines.append(f"<small>uses {' and '.join(ends)}</small>")
    return f"<div>{'<br>'.join(lines)}</div>\n"
