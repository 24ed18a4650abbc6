"""What the CUDA half of the module promises: its code, its errors, and on a machine with a GPU its manners.

The values that the kernels compute are tested in test_cuda_emulator.py, and on a GPU by the tests of the
operators with `pytest --cuda`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import fatbinary
import pytest
import torch
from foreign_tensor import cuda_tensor
from on_device import call_on, moved
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
    "linear_relu": lambda make: F.linear_relu(make(2, 3), make(4, 3)),
    "conv2d_relu_max_pool2d": lambda make: F.conv2d_relu_max_pool2d(make(1, 1, 6, 6), make(1, 1, 3, 3)),
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
    with pytest.raises(RuntimeError, match=r"^linear_relu: input is on cpu, but a parameter is on cuda:0$"):
        F.linear_relu(torch.zeros(2, 3), cuda_tensor(4, 3))


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda tensor: tensor,
    "sliced": lambda tensor: tensor[:, 1:, :, 1::2],
    "transposed": lambda tensor: tensor.transpose(1, 3),
    "expanded": lambda tensor: tensor[:, :, :, :1].expand(-1, -1, -1, 7),
}


@pytest.mark.parametrize("view", VIEWS)
def test_tensors_move_to_a_device_as_they_lie(view: str) -> None:
    """As `pytest --cuda` does it."""
    tensor = VIEWS[view](torch.randn(2, 3, 4, 5))
    copy = moved(tensor, torch.device("cpu"))
    assert torch.equal(copy, tensor)
    assert copy.data_ptr() != tensor.data_ptr()
    assert (copy.stride(), copy.storage_offset()) == (tensor.stride(), tensor.storage_offset())


def test_operators_called_on_a_device() -> None:
    """As `pytest --cuda` does it: results come back, and an operand that is overwritten."""
    cpu, values = torch.device("cpu"), torch.randn(2, 3)
    expected = values.relu()
    assert torch.equal(call_on(cpu, operators.relu, (), values), expected)
    assert call_on(cpu, operators.relu_, [0], values) is None
    assert torch.equal(values, expected)
    grads = call_on(cpu, operators.linear_weight_grad, (), values, values, True)
    assert [grad.shape for grad in grads] == [(3, 3), (3,)]


def layers(images: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Every operator, forward and backward: the output and all gradients."""
    conv_weight, conv_bias, weight, bias = parameters
    hidden = F.max_pool2d(F.relu(F.conv2d(images, conv_weight, conv_bias)), 2)
    output = F.linear(hidden.flatten(1), weight, bias)
    return [output, *torch.autograd.grad(output.square().sum(), [images, *parameters])]


def tensors_of_layers(device: str) -> tuple[Tensor, list[Tensor]]:
    shapes = [(64, 3, 32, 32), (6, 3, 5, 5), (6,), (10, 6 * 14 * 14), (10,)]
    images, *parameters = (torch.randn(shape, device=device).requires_grad_() for shape in shapes)
    return images, parameters


@on_gpu
class TestOnGpu:
    def test_repeated_calls_give_the_same_bits(self) -> None:
        images, parameters = tensors_of_layers("cuda")
        first = layers(images, parameters)
        for _ in range(3):
            for result, expected in zip(layers(images, parameters), first, strict=True):
                assert torch.equal(result, expected)

    def test_current_stream(self) -> None:
        """Kernels wait for what comes before them in the stream that is current, and for no other."""
        stream = torch.cuda.Stream()
        values = torch.full((1 << 20,), -1.0, device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(100_000_000)
            values.fill_(2.0)
            result = F.relu(values)
        stream.synchronize()
        assert bool((result == 2).all())

    def test_graph(self) -> None:
        """Forward and backward, captured once, replayed on other values."""
        images, parameters = tensors_of_layers("cuda")
        warm_up = torch.cuda.Stream()
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):
            layers(images, parameters)
        torch.cuda.current_stream().wait_stream(warm_up)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = layers(images, parameters)
        with torch.no_grad():
            images.normal_()
        graph.replay()
        for result, expected in zip(results, layers(images, parameters), strict=True):
            assert torch.equal(result, expected)

    @pytest.mark.parametrize("device", ["cuda", "cuda:1"])
    def test_training_steps_through_graphs(self, device: str) -> None:
        """Those of an epoch, which uses none: batches of two sizes in turn, with rates that change."""
        if torch.device(device).index == 1 and torch.cuda.device_count() < 2:
            pytest.skip("there is one GPU")
        images, labels = torch.randn(160, 3, 32, 32, device=device), torch.arange(160, device=device) % 10
        model = lenet_ext.LeNet().to(device)
        steps = [
            lenet_ext.TrainStep(lenet_ext.fuse(copy.deepcopy(model), images[:1]), momentum=0.9)
            for _ in range(2)
        ]
        graphs, plain = steps
        for lr in (0.05, 0.02, 0.01):
            for step in steps:
                step.optimizer.param_groups[0]["lr"] = lr
            losses = [
                graphs(images[part], labels[part]) for part in torch.arange(160, device=device).split(48)
            ]
            assert torch.equal(torch.stack(losses), plain.epoch(images, labels, 48))
        for ours, expected in zip(*(step.fused.parameters() for step in steps), strict=True):
            assert torch.equal(ours, expected)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_autocast(self, dtype: torch.dtype) -> None:
        """The dtype of each layer's output is the native one; gradients are float32, and near."""
        images, labels = torch.randn(8, 3, 32, 32, device="cuda"), torch.arange(8, device="cuda")
        ours = lenet_ext.LeNet().cuda()
        dtypes, gradients = [], []
        for model in (ours, lenet_ext.revert(ours)):
            seen: list[torch.dtype] = []
            for layer in model.children():
                layer.register_forward_hook(lambda m, args, output, seen=seen: seen.append(output.dtype))
            with torch.autocast("cuda", dtype=dtype):
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            gradients.append(torch.autograd.grad(loss, list(model.parameters())))
            dtypes.append(seen)
        assert dtypes[0] == dtypes[1]
        assert set(dtypes[0]) == {dtype}
        torch.testing.assert_close(*gradients, rtol=0.05, atol=0.01)

    def test_tensors_of_another_device_than_the_current_one(self) -> None:
        if torch.cuda.device_count() < 2:
            pytest.skip("there is one GPU")
        images, parameters = tensors_of_layers("cuda:1")
        results = layers(images, parameters)
        assert torch.cuda.current_device() == 0
        with torch.cuda.device(1):
            for result, expected in zip(results, layers(images, parameters), strict=True):
                assert result.device == images.device
                assert torch.equal(result, expected)

    def test_more_than_32_bits_of_elements(self) -> None:
        values = torch.zeros(2**31 + 3, dtype=torch.float16, device="cuda")
        values[-2:] = torch.tensor([-1.0, 2.0])
        assert F.relu(values)[-3:].tolist() == [0, 0, 2]

    def test_tensors_on_different_devices(self) -> None:
        with pytest.raises(RuntimeError, match=r"^linear: input is on cuda:0, but weight is on cpu$"):
            F.linear(torch.zeros(2, 3, device="cuda"), torch.zeros(4, 3))
