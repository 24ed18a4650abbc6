"""Tables that lose nothing in a narrow terminal."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def print_table(console: Console, table: Table, *, markup: bool = True) -> None:
    """`table`, or a paragraph for each row where its words would be cut to fit."""
    unlimited = console.options.update(width=10_000)
    if Measurement.get(console, unlimited, table).minimum <= console.width:
        console.print(table, markup=markup, highlight=False)
        return
    if table.title:
        console.print(table.title)
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        if name:
            console.print(name, markup=markup, highlight=False)
        for column, cell in zip(table.columns[1:], cells, strict=True):
            console.print("", column.header, cell, markup=markup, highlight=False)
