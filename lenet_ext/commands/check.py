"""`lenet-ext check`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lenet_ext.commands.tables import print_table
from lenet_ext.training.config import resolve_device

if TYPE_CHECKING:
    from lenet_ext.check import Comparison


def check(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda", metavar="NAME")] = "auto",
) -> None:
    """Compare every layer and the LeNet with native torch, both ways; exit code 1 if one differs."""
    from lenet_ext.check import compare_all

    comparisons = list(compare_all(resolve_device(device)))
    console = Console()
    print_table(console, _error_table(comparisons))
    wrong = [one for one in comparisons if not one.passed]
    for one in wrong:
        reason = (
            one.failure
            or f"error {one.error:.2e}, limit {one.limit:.2e}, native torch {one.native_error:.2e}"
        )
        console.print(f"{one.layer} {one.direction} {one.dtype}: {reason}", markup=False, highlight=False)
    right = len(comparisons) - len(wrong)
    console.print(f"{right} of {len(comparisons)} comparisons agree with native torch", highlight=False)
    if wrong:
        raise typer.Exit(1)


def _error_table(comparisons: Sequence[Comparison]) -> Table:
    """A row for each layer and direction, a column for each dtype."""
    dtypes = list(dict.fromkeys(one.dtype for one in comparisons))
    rows: dict[tuple[str, str], dict[torch.dtype, str]] = {}
    for one in comparisons:
        mark = "green" if one.passed else "bold red"
        rows.setdefault((one.layer, one.direction), {})[one.dtype] = f"[{mark}]{one.error:.1e}[/]"
    table = Table(
        title="Largest relative error against native torch in float64",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("layer")
    table.add_column("")
    for dtype in dtypes:
        table.add_column(str(dtype).removeprefix("torch."), justify="right", no_wrap=True)
    for (layer, direction), cells in rows.items():
        table.add_row(layer if direction == "forward" else "", direction, *(cells[dtype] for dtype in dtypes))
    return table
