"""`lenet-ext check`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lenet_ext.commands.tables import print_table
from lenet_ext.training.config import resolve_device
from lenet_ext.training.errors import InputError
from lenet_ext.training.own_network import FORM, OwnNetwork

if TYPE_CHECKING:
    from lenet_ext.check import Comparison

NETWORK = {"in_channels": 3, "num_classes": 10, "image_size": 32}


def _of_model(text: str, default: str) -> Any:
    return typer.Option(min=1, help=f"{text}, with --model", show_default=default)


def check(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda", metavar="NAME")] = "auto",
    model: Annotated[
        str | None,
        typer.Option(
            help="Compare this network instead, and time it: a class or function",
            metavar=FORM,
            show_default="every layer and the LeNet",
        ),
    ] = None,
    in_channels: Annotated[int | None, _of_model("Channels of its images", "3")] = None,
    num_classes: Annotated[int | None, _of_model("Classes that it tells apart", "10")] = None,
    image_size: Annotated[int | None, _of_model("Height and width of its images in pixels", "32")] = None,
) -> None:
    """Compare every layer and the LeNet with native torch, both ways; exit code 1 if one differs."""
    given = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    network = {name: value for name, value in given.items() if value is not None}
    if model is not None:
        _check_network(model, {**NETWORK, **network}, resolve_device(device))
        return
    for name, value in network.items():
        raise InputError(f"--{name.replace('_', '-')} {value}: wanted --model {FORM} with it")
    _check_layers(resolve_device(device))


def _check_layers(device: str) -> None:
    from lenet_ext.check import compare_all

    comparisons = list(compare_all(device))
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


def _check_network(text: str, network: dict[str, int], device: str) -> None:
    from lenet_ext.training.network_check import NetworkCheck

    console = Console()
    check = NetworkCheck.of(OwnNetwork.read(text), network, device)
    how = "in the fused engine" if check.refusal is None else f"layer by layer ({check.refusal})"
    shape = "x".join(map(str, (network["in_channels"], network["image_size"], network["image_size"])))
    console.print(f"{text} on images of {shape}, {how}", markup=False, highlight=False)
    table = _table("Largest relative error against native torch, float64", "", "error")
    agreements = list(check.agreements())
    for one in agreements:
        mark = "green" if one.passed else "bold red"
        cell = "random: not compared" if one.error is None else f"{one.error:.1e}"
        table.add_row(one.what, f"[{mark}]{cell}[/]")
    print_table(console, table)
    threads = f"{torch.get_num_threads()} threads" if device == "cpu" else device
    title = f"Microseconds a call, float32, on {threads}"
    table = _table(title, "", "ours", "native torch", "times")
    for speed in check.speeds():
        cells = (f"{speed.ours:,.1f}", f"{speed.native:,.1f}", f"{speed.native / speed.ours:.2f}")
        table.add_row(speed.what, *cells)
    print_table(console, table)
    compared = [one for one in agreements if one.error is not None]
    right = sum(one.passed for one in compared)
    console.print(f"{right} of {len(compared)} comparisons agree with native torch", highlight=False)
    if right < len(compared):
        raise typer.Exit(1)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    return table


def _error_table(comparisons: Sequence[Comparison]) -> Table:
    """A row for each layer and direction, a column for each dtype."""
    dtypes = list(dict.fromkeys(one.dtype for one in comparisons))
    rows: dict[tuple[str, str], dict[torch.dtype, str]] = {}
    for one in comparisons:
        mark = "green" if one.passed else "bold red"
        rows.setdefault((one.layer, one.direction), {})[one.dtype] = f"[{mark}]{one.error:.1e}[/]"
    table = _table("Largest relative error against native torch in float64")
    table.add_column("layer")
    table.add_column("")
    for dtype in dtypes:
        table.add_column(str(dtype).removeprefix("torch."), justify="right", no_wrap=True)
    for (layer, direction), cells in rows.items():
        table.add_row(layer if direction == "forward" else "", direction, *(cells[dtype] for dtype in dtypes))
    return table
