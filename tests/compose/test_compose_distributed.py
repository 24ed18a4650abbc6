"""Two processes, started by torchrun: our layers and a fused network, over gloo."""

from __future__ import annotations

import pytest
import torch
from processes import HELPERS, python


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_two_processes_train_as_one() -> None:
    """The parameters after steps of SGD are, but for rounding, those of native torch in one process."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    finished = python(*torchrun, HELPERS / "distributed_layers.py")
    assert finished.returncode == 0, finished.stderr
    lines = [line.split() for line in finished.stdout.splitlines()]
    assert [(name, int(processes)) for name, processes, _ in lines] == [
        ("ddp", 2),
        ("fsdp2", 2),
        ("fused", 2),
    ]
    for name, _, largest in lines:
        assert float(largest) < 1e-12, name
