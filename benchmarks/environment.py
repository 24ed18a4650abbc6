"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from typing import Any

import torch

import lenet_ext
from lenet_ext._machine import cpu_name


def environment() -> dict[str, Any]:
    """The machine, the software and the date, of this process now."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "logical_cpus": os.cpu_count(),
        "isa": lenet_ext.cpu_isa(),  # of our kernels
        "native_isa": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "lenet_ext": lenet_ext.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def environment_text(facts: dict[str, Any]) -> str:
    return (
        "{date}, {cpu} ({logical_cpus} logical CPUs), {isa} kernels, torch {torch} ({native_isa}), "
        "lenet_ext {lenet_ext}"
    ).format_map(facts)
