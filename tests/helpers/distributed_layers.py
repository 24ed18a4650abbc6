"""Run by torchrun: our layers in DistributedDataParallel and FSDP2, fused networks, and tensor parallelism,
against one process; with batch norm, whose statistics are of a process's own images, against the native
network in DistributedDataParallel.

Prints, for each, the largest relative difference of the parameters after some steps of SGD.
"""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from networks import NETWORKS
from networks import images as images_of
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from twins import CLASSES, images, twins

import lenet_ext
import lenet_ext.distributed  # registers how operators are sharded

IMAGES, STEPS = 8, 3


def train(model: torch.nn.Module, batch: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()


def whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def difference(trained: torch.nn.Module, expected: torch.nn.Module) -> float:
    pairs = zip(trained.parameters(), expected.parameters(), strict=True)
    counted = zip(trained.buffers(), expected.buffers(), strict=True)
    assert all(torch.allclose(mine, other, rtol=1e-12) for mine, other in counted)
    return max(((whole(mine) - other).norm() / other.norm()).item() for mine, other in pairs)


def sharded(model: torch.nn.Module) -> FSDPModule:
    """Every layer with parameters is a unit of its own, gathered for its forward and its backward."""
    for layer in model:
        if next(layer.parameters(), None) is not None:
            fully_shard(layer)
    return fully_shard(model)


def fused(model: torch.nn.Module) -> DistributedDataParallel:
    return DistributedDataParallel(lenet_ext.fuse(model, images(2)))


def sharded_fused(model: torch.nn.Module) -> FSDPModule:
    """The fused network as a whole is a unit."""
    return fully_shard(lenet_ext.fuse(model, images(2)))


def batch_norm_difference(rank: int, name: str) -> float:
    """Between the fused network of this name and the native one, each process with images of its own."""
    torch.manual_seed(0)
    native = NETWORKS[name].build().double()
    batch = images_of(NETWORKS[name], IMAGES, seed=rank)
    model = lenet_ext.fuse(copy.deepcopy(native), batch)
    labels = torch.arange(IMAGES) % CLASSES
    ours, expected = DistributedDataParallel(model), DistributedDataParallel(native)
    train(ours, batch, labels)
    train(expected, batch, labels)
    return difference(ours, expected)


def tensor_parallel(model: torch.nn.Sequential) -> torch.nn.Module:
    """The linear layers split over the processes, their 5 features unevenly; a ReLU in place in between."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return parallelize_module(
        model, mesh, {"6": ColwiseParallel(use_local_output=False), "8": RowwiseParallel()}
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    (_, native), batch, labels = twins(), images(IMAGES), torch.arange(IMAGES) % CLASSES
    share = slice(rank * IMAGES // processes, (rank + 1) * IMAGES // processes)
    train(native, batch, labels)
    for name, make in (
        ("ddp", DistributedDataParallel),
        ("fsdp2", sharded),
        ("fused", fused),
        ("fused fsdp2", sharded_fused),
    ):
        torch.manual_seed(0)
        model = make(twins()[0])
        train(model, batch[share], labels[share])
        largest = difference(model, native)
        if rank == 0:
            print(name, processes, largest)
    torch.manual_seed(0)
    model = tensor_parallel(twins()[0])
    train(model, batch, labels)
    largest = difference(model, native)
    if rank == 0:
        print("tensor parallel", processes, largest)
    for name in ("residual", "batch norm of features"):
        largest = batch_norm_difference(rank, name)
        if rank == 0:
            print(name, processes, largest)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
