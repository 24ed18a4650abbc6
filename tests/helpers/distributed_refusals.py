"""Run by torchrun: prints how the fused engine refuses DTensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from twins import CLASSES, images, native_network

import lenet_ext


def sharded() -> torch.nn.Sequential:
    model = native_network()
    fully_shard(model[0])
    return fully_shard(model)


def fused() -> tuple[torch.nn.Sequential, lenet_ext.FusedNet]:
    model = native_network()
    return model, lenet_ext.fuse(model, images())


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    batch, labels = images(), torch.arange(4) % CLASSES
    parallel = parallelize_module(torch.nn.Sequential(torch.nn.Linear(4, 4)), mesh, {"0": ColwiseParallel()})
    (by_layer, first), (as_whole, second) = fused(), fused()
    fully_shard(by_layer[0])
    fully_shard(as_whole)
    refused: list[Callable[[], object]] = [
        lambda: lenet_ext.fuse(sharded(), batch),
        lambda: lenet_ext.fuse(parallel, torch.randn(4, 4)),
        lambda: first(batch),
        lambda: second(batch),
        lambda: lenet_ext.TrainStep(second, lr=0.1)(batch, labels),
        lambda: fused()[1](distribute_tensor(batch, mesh, [Shard(0)])),
    ]
    for call in refused:
        try:
            call()
        except RuntimeError as error:
            if dist.get_rank() == 0:
                print(error)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
