"""`lenet-ext info`"""

from __future__ import annotations

import json
import os
import platform
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from lenet_ext.commands.tables import print_table


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table")] = False,
) -> None:
    """Print how lenet_ext was built and what it runs on."""
    facts = collect_info()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for group, entries in facts.items():
        for name, value in entries.items():
            shown = ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
            table.add_row(f"{group}.{name}", shown)
    print_table(Console(), table, markup=False)


def collect_info() -> dict[str, dict[str, Any]]:
    """Facts about lenet_ext, torch, Python and the machine; every value can be written as JSON."""
    import lenet_ext
    from lenet_ext._machine import cpu_name

    cuda = torch.cuda.is_available()
    return {
        "lenet_ext": dict(lenet_ext.build_info()),
        "torch": {
            "version": torch.__version__,
            "threads": torch.get_num_threads(),
            "cuda": torch.version.cuda,
            "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
            if cuda
            else [],
        },
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "machine": {"system": platform.platform(), "cpu": cpu_name(), "logical_cpus": os.cpu_count()},
    }
