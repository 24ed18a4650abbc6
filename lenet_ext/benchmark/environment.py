"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

import lenet_ext


@dataclass(frozen=True)
class Environment:
    """The machine, the software and the moment of a measurement."""

    date: str
    cpu: str
    logical_cpus: int
    isa: str  # of our kernels
    native_isa: str  # of native torch's
    torch: str
    lenet_ext: str
    python: str
    system: str

    def __str__(self) -> str:
        return (
            f"{self.date}, {self.cpu} ({self.logical_cpus} logical CPUs), {self.isa} kernels, "
            f"torch {self.torch} ({self.native_isa}), lenet_ext {self.lenet_ext}"
        )


def environment() -> Environment:
    """Of this process, now."""
    return Environment(
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        cpu=cpu_name(),
        logical_cpus=os.cpu_count() or 1,
        isa=lenet_ext.cpu_isa(),
        native_isa=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
        lenet_ext=lenet_ext.__version__,
        python=platform.python_version(),
        system=platform.system(),
    )


def cpu_name() -> str:
    """The processor's name; `platform` knows only its architecture on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
