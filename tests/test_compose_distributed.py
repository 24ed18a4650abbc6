"""Our layers in two processes, started by torchrun: DistributedDataParallel and FSDP2 over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_two_processes_train_as_one() -> None:
    """The parameters after steps of SGD are, but for rounding, those of native torch in one process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    finished = subprocess.run(
        [*torchrun, str(TESTS / "distributed_layers.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    lines = [line.split() for line in finished.stdout.splitlines()]
    assert [(name, int(processes)) for name, processes, _ in lines] == [("ddp", 2), ("fsdp2", 2)]
    for name, _, largest in lines:
        assert float(largest) < 1e-12, name
