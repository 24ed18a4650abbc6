"""Two processes, started by torchrun: our layers, a fused network, distributed tensors, over gloo."""

from __future__ import annotations

import pytest
import torch
from processes import HELPERS, python

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch was built without distributed"
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def test_two_processes_train_as_one() -> None:
    """The parameters after steps of SGD are, but for rounding, those of native torch in one process; with
    batch norm those of native torch in two, and so are the running statistics.
    """
    finished = python(*TORCHRUN, HELPERS / "distributed_layers.py")
    assert finished.returncode == 0, finished.stderr
    lines = [line.rsplit(maxsplit=2) for line in finished.stdout.splitlines()]
    assert [(name, int(processes)) for name, processes, _ in lines] == [
        ("ddp", 2),
        ("fsdp2", 2),
        ("fused", 2),
        ("fused fsdp2", 2),
        ("tensor parallel", 2),
        ("residual", 2),
        ("batch norm of features", 2),
    ]
    for name, _, largest in lines:
        assert float(largest) < 1e-12, name


def test_distributed_tensors() -> None:
    """Each function, in every placement of each tensor, is torch's on whole tensors; so are gradients."""
    finished = python(*TORCHRUN, HELPERS / "distributed_tensors.py")
    assert finished.returncode == 0, finished.stderr
    counts = {name: int(count) for name, count in map(str.split, finished.stdout.splitlines())}
    assert counts == {
        **{"conv2d": 50, "conv2d_no_bias": 25, "conv2d_groups": 50, "linear": 18, "linear_no_bias": 9},
        **{"linear_3d": 24, "linear_1d": 12, "relu": 3, "relu_inplace": 3},
        **{"max_pool2d": 5, "max_pool2d_indices": 5},
    }


def test_the_fused_engine_refuses_distributed_tensors() -> None:
    """Images and parameters by name, of a network sharded before and after it was fused."""
    finished = python(*TORCHRUN, HELPERS / "distributed_refusals.py")
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert "a DTensor, and the fused engine takes whole tensors: " in line
        assert line.endswith("use lenet_ext.convert")
    assert [line.split(" a DTensor")[0] for line in lines] == [
        "fuse: 0.weight is",
        "fuse: 0.weight is",
        "FusedNet: 0.weight is",
        "FusedNet: 0.weight is",
        "TrainStep: 0.weight is",
        "FusedNet: images must not be",
    ]


def test_distributed_tensors_are_not_imported_by_the_package() -> None:
    """They would take a second of every start; without their import torch names our operator."""
    finished = python("-c", "import lenet_ext, sys; print('torch.distributed.tensor' in sys.modules)")
    assert finished.stdout.split() == ["False"]
