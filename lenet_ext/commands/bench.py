"""`lenet-ext bench`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lenet_ext.training.errors import InputError, os_error_text, require


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases and repetitions")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder for charts", show_default=False)] = None,
) -> None:
    """Time the kernels and the training step beside native torch."""
    if out is not None:
        require("matplotlib")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{out}: cannot be made a folder: {os_error_text(error)}") from error
    from lenet_ext.benchmark import run_benchmarks

    run_benchmarks(quick=quick, out=out)
