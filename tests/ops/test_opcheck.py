"""torch.library.opcheck of every operator, fake kernels over many shapes, torch.compile and torch.export."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from operators import NETWORK, OPERATORS, operators
from strategies import ConvCase, PoolCase, conv_cases, laid_out, normal, pool_cases
from torch import Tensor
from torch._subclasses import FakeTensorMode

import lenet_ext
import lenet_ext.functional as F
from lenet_ext.engine.layers import BatchNorm
from lenet_ext.engine.network import Network

GEOMETRY, POOL = (2, 1, 1, 2, 0, 1, 1, 1, 2), (3, 2, 2, 2, 1, 0, 1, 1)
UPDATES = (
    "network_train",
    "ensemble_train",
    "network_noisy_update",
)  # of parameters, which opcheck would change
STACKS = [f"linear{kind} of stacks" for kind in ("", "_input_grad", "_weight_grad", "_grads")]


def arguments(name: str, layout: str, dtype: torch.dtype) -> tuple:
    def tensor(*shape: int) -> Tensor:
        values = torch.randn(shape, dtype=dtype)
        return laid_out(values, layout) if len(shape) == 4 else values

    image, weight, bias = tensor(2, 4, 7, 6), tensor(6, 2, 3, 2), tensor(6)
    pooled, argmax = operators.max_pool2d(image, *POOL, False, True)
    parameters = [tensor(5, 4, 3, 2), tensor(5), tensor(4, 30), tensor(4)]
    network = (tensor(2, 4, 7, 8), parameters, NETWORK.program(), None, None)
    stacked = [torch.stack([parameter, -parameter]) for parameter in parameters]
    (output,), saved, places = operators.network_forward(*network)
    return {
        "conv2d": (image, weight, bias, *GEOMETRY),
        "conv2d_input_grad": (tensor(2, 6, 4, 6), weight, 7, 6, *GEOMETRY),
        "conv2d_weight_grad": (tensor(2, 6, 4, 6), image, 3, 2, *GEOMETRY, True),
        "conv2d_grads": (tensor(2, 6, 4, 6), image, weight, *GEOMETRY, True),
        "max_pool2d": (image, *POOL, True, True),
        "max_pool2d_indices": (argmax, 7, 6, *POOL),
        "max_pool2d_input_grad": (torch.randn_like(pooled), argmax, 7, 6, *POOL),
        "linear": (image, tensor(5, 6), tensor(5)),
        "linear_input_grad": (tensor(2, 3, 5), tensor(5, 6)),
        "linear_weight_grad": (tensor(2, 3, 5), tensor(2, 3, 6), True),
        "linear_grads": (tensor(2, 3, 5), tensor(2, 3, 6), tensor(5, 6), True),
        "linear of stacks": (tensor(2, 3, 6), tensor(2, 5, 6), tensor(2, 5)),
        "linear_input_grad of stacks": (tensor(2, 3, 5), tensor(2, 5, 6)),
        "linear_weight_grad of stacks": (tensor(2, 3, 5), tensor(2, 3, 6), True, True),
        "linear_grads of stacks": (tensor(2, 3, 5), tensor(2, 3, 6), tensor(2, 5, 6), True),
        "network": network,
        "network_forward": network,
        "ensemble": (network[0], stacked, 2, layout == "sliced", NETWORK.program(), None, None),
        "network_backward": (
            *([torch.randn_like(output)], network[0], parameters, saved, places),
            *(NETWORK.program(), None, None, True, True),
        ),
        "relu": (image,),
        "relu_": (image.clone(),),
        "relu_grad": (tensor(2, 4, 7, 6), image),
        "dropout_mask": (image, torch.tensor([7]), 3, True, 0.4),
        "network_sample_gradients": (
            *(network[0], torch.tensor([1, 3]), parameters, [0, -1, 1, 2], None),
            *(NETWORK.program("loss cross_entropy"), None),
        ),
        "network_clipped_sums": (
            *(network[0], torch.tensor([1, 3]), torch.tensor([1, 1]), parameters, [0, -1, 1, 2], None),
            *(NETWORK.program("loss cross_entropy"), None, 0.7),
        ),
        "network_statistics": norm_arguments(tensor(2, 4, 7, 6), tensor),
        "activation": (image, "elu", [1.0, 1.0, 1.0]),
        "activation_grad": (tensor(2, 4, 7, 6), image, "elu", [1.0, 1.0, 1.0]),
    }[name]


def norm_arguments(image: Tensor, tensor: Callable[[int], Tensor]) -> tuple:
    """Those of the statistics after a forward."""
    network = Network.chain("FusedNet", (BatchNorm(True, True, True, 0.1, 0.2), (0, 1, 2, 3)))
    parameters = [tensor(4) for _ in range(4)]
    _, saved, _ = operators.network_forward(image, parameters, network.program(), None, None)
    return saved, image, parameters, [torch.tensor(2)], network.program(), None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("name", [*(name for name in OPERATORS if name not in UPDATES), *STACKS])
def test_opcheck(name: str, layout: str, dtype: torch.dtype) -> None:
    if name == "relu_" and layout == "sliced":
        layout = "contiguous"  # clone() makes it dense
    torch.library.opcheck(getattr(operators, name.split()[0]).default, arguments(name, layout, dtype))


def check_fake(operator, *args) -> tuple[Tensor, ...]:
    """Checks sizes, strides and dtypes that the fake kernel foretells; returns the real outputs."""
    real = operator(*args)
    with FakeTensorMode() as mode:
        fake = operator(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args))
    outputs = real if isinstance(real, tuple) else (real,)
    for actual, foretold in zip(outputs, fake if isinstance(fake, tuple) else (fake,), strict=True):
        assert (foretold.shape, foretold.dtype, foretold.device) == (
            actual.shape,
            actual.dtype,
            actual.device,
        )
        if actual.numel():
            assert foretold.stride() == actual.stride()
    return outputs


@given(conv_cases())
def test_fake_conv2d(case: ConvCase) -> None:
    image, weight, bias = case.tensors()
    geometry = case.geometry.numbers()
    (output,) = check_fake(operators.conv2d, image, weight, bias, *geometry)
    grad = laid_out(normal(tuple(output.shape), case.dtype, 0), case.layout)
    check_fake(operators.conv2d_input_grad, grad, weight, *image.shape[2:], *geometry)
    check_fake(operators.conv2d_weight_grad, grad, image, *weight.shape[2:], *geometry, case.bias)
    check_fake(operators.conv2d_grads, grad, image, weight, *geometry, case.bias)


@given(pool_cases())
def test_fake_max_pool2d(case: PoolCase) -> None:
    image, size = case.input(), case.input_shape[2:]
    geometry = case.geometry()
    check_fake(operators.max_pool2d, image, *geometry, case.ceil_mode, False)
    output, argmax = check_fake(operators.max_pool2d, image, *geometry, case.ceil_mode, True)
    grad = laid_out(normal(tuple(output.shape), case.dtype, 0), case.layout)
    check_fake(operators.max_pool2d_indices, argmax, *size, *geometry)
    check_fake(operators.max_pool2d_input_grad, grad, argmax, *size, *geometry)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool) -> None:
    """Without graph breaks, forward and backward, for two batch sizes."""
    torch._dynamo.reset()
    model = lenet_ext.LeNet(in_channels=1, image_size=16)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for batch in (4, 3):
        images = torch.randn(batch, 1, 16, 16)
        grads = []
        for function in (compiled, model):
            output = function(images)
            grads.append((output, torch.autograd.grad(output.square().sum(), list(model.parameters()))))
        torch.testing.assert_close(*grads)


def test_compile_inplace_relu() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: F.relu(x * 2, inplace=True) + 1, backend="aot_eager", fullgraph=True)
    x = torch.randn(5, requires_grad=True)
    (grad,) = torch.autograd.grad(compiled(x).sum(), x)
    assert torch.equal(grad, torch.where(x > 0, 2.0, 0.0))


def test_export() -> None:
    """A graph of our operators, for any batch size."""
    model = lenet_ext.LeNet(in_channels=1, image_size=16)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(
        model, (torch.randn(2, 1, 16, 16),), dynamic_shapes=({0: batch},), strict=False
    )
    names = {str(node.target) for node in program.graph.nodes}
    assert {f"lenet_ext.{name}.default" for name in ("conv2d", "relu", "max_pool2d", "linear")} <= names
    images = torch.randn(5, 1, 16, 16)
    torch.testing.assert_close(program.module()(images), model(images))


def test_meta_device() -> None:
    model = lenet_ext.LeNet().to("meta")
    assert model(torch.empty(3, 3, 32, 32, device="meta")).shape == (3, 10)
