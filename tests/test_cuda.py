"""What the CUDA half of the module promises: its code, its errors, and on a machine with a GPU its manners.

The values that the kernels compute are tested in test_cuda_emulator.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fatbinary
import pytest
import torch
from foreign_tensor import cuda_tensor
from torch import Tensor

import lenet_ext
import lenet_ext._C
import lenet_ext.functional as F

INFO = lenet_ext.build_info()
operators = torch.ops.lenet_ext
without_gpu = pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.skipif(not INFO["cuda"], reason="built without CUDA")
def test_module_holds_the_code_that_build_info_names() -> None:
    held = fatbinary.architectures(Path(lenet_ext._C.__file__))
    for architecture in INFO["cuda_archs"]:
        number = architecture.removesuffix("+PTX").replace(".", "")
        assert f"sm_{number}" in held
        assert not architecture.endswith("+PTX") or f"compute_{number}" in held


def test_build_info_names_architectures_where_cuda_was_built() -> None:
    assert INFO["cuda"] == bool(INFO["cuda_archs"])


CALLS: dict[str, Callable[[Callable[..., Tensor]], object]] = {
    "conv2d": lambda make: F.conv2d(make(1, 1, 4, 4), make(1, 1, 3, 3)),
    "max_pool2d": lambda make: F.max_pool2d(make(1, 1, 4, 4), 2),
    "linear": lambda make: F.linear(make(2, 3), make(4, 3)),
    "relu": lambda make: F.relu(make(3)),
    "relu_": lambda make: operators.relu_(make(3)),
    "relu_grad": lambda make: operators.relu_grad(make(3), make(3)),
    "linear_input_grad": lambda make: operators.linear_input_grad(make(2, 4), make(4, 3)),
    "linear_weight_grad": lambda make: operators.linear_weight_grad(make(2, 4), make(2, 3), True),
}


@without_gpu
@pytest.mark.parametrize("name", CALLS)
def test_torch_without_cuda(name: str) -> None:
    expected = "the installed torch has no CUDA" if INFO["cuda"] else "was built without CUDA"
    with pytest.raises(RuntimeError, match=f"^{name}: a tensor is on cuda:0, but .*{expected}"):
        CALLS[name](cuda_tensor)


@without_gpu
def test_tensors_on_different_devices() -> None:
    message = "^linear: input is on cpu, but weight is on cuda:0$"
    with pytest.raises(RuntimeError, match=message):
        F.linear(torch.zeros(2, 3), cuda_tensor(4, 3))


@without_gpu
def test_fused_engine_refuses_cuda_tensors() -> None:
    message = "images are on cuda:0, but the fused engine runs on the CPU only"
    with pytest.raises(RuntimeError, match=f"^linear_relu: {message}"):
        F.linear_relu(cuda_tensor(2, 3), cuda_tensor(4, 3))
    with pytest.raises(RuntimeError, match=f"^conv2d_relu_max_pool2d: {message}"):
        F.conv2d_relu_max_pool2d(cuda_tensor(1, 1, 6, 6), cuda_tensor(1, 1, 3, 3))
