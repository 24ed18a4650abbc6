"""`lenet-ext bench`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lenet_ext.training.errors import InputError, os_error_text, require


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases and repetitions")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder for charts", show_default=False)] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A report, e.g. lenet or peers; repeatable", show_default="all")
    ] = None,
) -> None:
    """Time the kernels beside native torch, and the fused engine beside every peer that is installed."""
    if out is not None:
        require("matplotlib")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{out}: cannot be made a folder: {os_error_text(error)}") from error
    from lenet_ext.benchmark import NAMES, run_benchmarks

    for name in only or ():
        if name not in NAMES:
            raise InputError(f"--only {name}: no such report, there are {', '.join(NAMES)}")
    run_benchmarks(quick=quick, out=out, only=tuple(only or NAMES))
