"""Two processes with DistributedDataParallel over a fused network: prints the largest relative difference of
their gradients from those of one process with all images."""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import lenet_ext

PROCESSES = 2
IMAGES = 12


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(IMAGES, 3, 32, 32, generator=generator).double(), torch.arange(IMAGES) % 10


def network() -> lenet_ext.FusedNet:
    torch.manual_seed(0)
    model = lenet_ext.LeNet(layers=torch.nn).double()
    return lenet_ext.fuse(model, data()[0][:2])


def train(rank: int, meeting_place: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting_place}", rank=rank, world_size=PROCESSES
    )
    images, labels = data()
    fused = network()
    parallel = DistributedDataParallel(fused)
    share = slice(rank * IMAGES // PROCESSES, (rank + 1) * IMAGES // PROCESSES)
    for _ in range(2):  # the second round runs in the order that the first one found
        parallel.zero_grad()
        cross_entropy(parallel(images[share]), labels[share]).backward()
    alone = network()
    cross_entropy(alone(images), labels).backward()
    errors = [
        ((ours.grad - one.grad).norm() / one.grad.norm()).item()
        for ours, one in zip(fused.parameters(), alone.parameters(), strict=True)
        if ours.grad is not None and one.grad is not None
    ]
    assert len(errors) == len(list(alone.parameters()))
    if rank == 0:
        print(max(errors))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(train, (sys.argv[1],), nprocs=PROCESSES)  # type: ignore[attr-defined]
