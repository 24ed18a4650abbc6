"""Run by torchrun: our functions on DTensors in all placements, against torch's on whole tensors.

Prints for each function how many combinations of placements were right: values, and all gradients together
and one by one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as native
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import lenet_ext.distributed  # noqa: F401  (registers how operators are sharded)
import lenet_ext.functional as ours

# Sizes that two processes do not share evenly are among them.
CALLS: dict[str, tuple[Callable[..., Tensor], Sequence[tuple[int, ...]]]] = {
    "conv2d": (lambda f, x, w, b: f.conv2d(x, w, b, padding=1), [(3, 4, 5, 6), (6, 4, 3, 3), (6,)]),
    "conv2d_no_bias": (lambda f, x, w: f.conv2d(x, w), [(4, 3, 5, 6), (5, 3, 3, 3)]),
    "conv2d_groups": (lambda f, x, w, b: f.conv2d(x, w, b, groups=2), [(4, 4, 5, 6), (6, 2, 3, 3), (6,)]),
    "linear": (lambda f, x, w, b: f.linear(x, w, b), [(5, 6), (4, 6), (4,)]),
    "linear_no_bias": (lambda f, x, w: f.linear(x, w), [(5, 6), (4, 6)]),
    "linear_3d": (lambda f, x, w, b: f.linear(x, w, b), [(2, 5, 6), (4, 6), (4,)]),
    "linear_1d": (lambda f, x, w, b: f.linear(x, w, b), [(6,), (4, 6), (4,)]),
    "relu": (lambda f, x: f.relu(x), [(5, 6)]),
    "relu_inplace": (lambda f, x: f.relu(x * 1, inplace=True), [(5, 6)]),
    "max_pool2d": (lambda f, x: f.max_pool2d(x, 2), [(3, 4, 6, 6)]),
    "max_pool2d_indices": (
        lambda f, x: torch.add(*f.max_pool2d(x, 2, return_indices=True)),
        [(3, 4, 6, 6)],
    ),
}


def placements(tensor: Tensor) -> list[Any]:
    return [Replicate(), *(Shard(axis) for axis in range(tensor.dim()))]


def check(name: str, mesh: DeviceMesh) -> int:
    function, shapes = CALLS[name]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    whole = [tensor.clone().requires_grad_() for tensor in tensors]
    output = function(native, *whole)
    grad = torch.randn_like(output)
    wanted = torch.autograd.grad(output, whole, grad)
    replicated, everything = distribute_tensor(grad, mesh, [Replicate()]), range(len(tensors))
    ways = list(itertools.product(*map(placements, tensors)))
    for way in ways:
        for needed in (list(everything), *([i] for i in everything)):
            parts = [
                distribute_tensor(tensor, mesh, [place]).requires_grad_(i in needed)
                for i, (tensor, place) in enumerate(zip(tensors, way, strict=True))
            ]
            result = function(ours, *parts)
            assert isinstance(result, DTensor)
            torch.testing.assert_close(result.full_tensor(), output)
            grads = torch.autograd.grad(result, [parts[i] for i in needed], replicated)
            for i, found in zip(needed, grads, strict=True):
                torch.testing.assert_close(found.full_tensor(), wanted[i])
    return len(ways)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    torch.manual_seed(0)
    for name in CALLS:
        count = check(name, mesh)
        if dist.get_rank() == 0:
            print(name, count)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
