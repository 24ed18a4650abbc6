"""shift and gain of the engine: parameters that lie along a part of an image's dimensions."""

from __future__ import annotations

import pytest
import torch
from capture_helpers import Forward
from stages import TOLERANCES, check, engine_pass, one
from torch import Tensor, nn

import lenet_ext
from lenet_ext.engine.layers import Activation, Gain, Layer, Shift

LAYERS = [Shift(1.0), Shift(-0.5), Gain()]
# An image, and a parameter for it.
SHAPES = [
    *(((1,), ()), ((17,), (17,)), ((17,), (1,)), ((33,), ())),
    *(((3, 4, 5), (3, 1, 1)), ((3, 4, 5), (1, 3, 1, 1)), ((3, 4, 5), (3, 4, 5)), ((3, 4, 5), (4, 5))),
    *(((3, 4, 5), (5,)), ((3, 4, 5), (4, 1)), ((3, 4, 5), (1, 1, 1)), ((3, 1, 5), (3, 1, 5))),
    *(((16, 1, 1), (16, 1, 1)), ((2, 7, 7), (2, 1, 1)), ((9, 33), (9, 1)), ((9, 33), (33,))),
]


def random_values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_as_torch(dtype: torch.dtype, layer: Layer) -> None:
    for image, shape in SHAPES:
        parameter = random_values(*shape, dtype=dtype)
        for batch in (1, 5, 70):
            x = random_values(batch, *image, dtype=dtype)
            # A gradient of a few elements is a sum of up to 20,000 values that cancel.
            tolerance = 4 * TOLERANCES[dtype]
            check(one(layer, parameters=1), x, [parameter], tolerance=tolerance)
            check(one(layer, Activation("tanh"), parameters=1), x, [parameter], tolerance=tolerance)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_same_for_every_number_of_threads(layer: Layer) -> None:
    x, parameter = random_values(140, 6, 9, 9), random_values(6, 1, 1)
    threads = torch.get_num_threads()
    try:
        passes = []
        for count in (1, 2):
            torch.set_num_threads(count)
            passes.append(engine_pass(one(layer, parameters=1), x, [parameter]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(passes[0].outputs[0], passes[1].outputs[0])
    assert torch.equal(passes[0].grad_parameters[0], passes[1].grad_parameters[0])


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_empty_batches_and_images(layer: Layer) -> None:
    for image, batch in (((3, 4), 0), ((3, 0), 2)):
        result = engine_pass(one(layer, parameters=1), torch.empty(batch, *image), [torch.ones(3, 1)])
        assert result.outputs[0].shape == (batch, *image)
        assert torch.equal(result.grad_parameters[0], torch.zeros(3, 1))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (2, 3, 4, 4), (3, 1, 4)])
def test_refused(layer: Layer, shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match=r"a parameter of the sizes .* does not fit images of \[3, 4, 4\]"):
        torch.ops.lenet_ext.network(
            torch.ones(2, 3, 4, 4), [torch.ones(shape)], one(layer, parameters=1).program(), None, None
        )


class Scaled(nn.Module):
    """Every way to write it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, bias=False)
        self.bias, self.scale = nn.Parameter(torch.randn(3, 1, 1)), nn.Parameter(torch.randn(1, 3, 1, 1))
        self.place, self.number = nn.Parameter(torch.randn(3, 4, 4)), nn.Parameter(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) + self.bias
        x = torch.tanh(self.scale * x) - self.place
        x = torch.add(self.bias, x, alpha=2.0)
        x *= self.number
        return self.place - torch.sub(x, self.number, alpha=3.0)


def test_gradcheck() -> None:
    model = Scaled().double()
    x = random_values(2, 1, 6, 6, dtype=torch.float64).requires_grad_()
    fused = lenet_ext.fuse(model, x.detach())
    torch.testing.assert_close(fused(x), model(x), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x, *_: fused(x), (x, *fused.parameters()))
    assert torch.autograd.gradgradcheck(lambda x, *_: fused(x), (x, *fused.parameters()), atol=1e-4)


def test_a_training_step() -> None:
    torch.manual_seed(3)
    model, x, y = (
        nn.Sequential(Scaled(), nn.Flatten()).double(),
        torch.randn(8, 1, 6, 6).double(),
        torch.arange(8),
    )
    fused = lenet_ext.fuse(model, x)
    twin = nn.Sequential(Scaled(), nn.Flatten()).double()
    twin.load_state_dict(model.state_dict())
    step = lenet_ext.TrainStep(fused, torch.optim.SGD(fused.parameters(), lr=0.01))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        optimizer.step()
        step(x, y)
    for own, right in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, right, rtol=1e-10, atol=1e-10)


REFUSALS = {
    "apart": (lambda net, x: net.conv(x) + net.apart, "must fit each image, with ones before and behind"),
    "for each image": (lambda net, x: net.conv(x) + net.batch, "fuse: "),
    "of a larger shape": (
        lambda net, x: net.conv(x).mean((2, 3), keepdim=True) * net.larger,
        "must fit each image",
    ),
    "in place": (lambda net, x: net.larger.mul_(net.conv(x)), "fuse: "),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_by_name(name: str) -> None:
    function, match = REFUSALS[name]
    model = Forward(function, conv=nn.Conv2d(1, 3, 3))
    for parameter, shape in {"apart": (3, 1, 4), "batch": (2, 3, 4, 4), "larger": (3, 4, 4)}.items():
        model.register_parameter(parameter, nn.Parameter(torch.randn(shape)))
    with pytest.raises(RuntimeError, match=match):
        lenet_ext.fuse(model, torch.randn(2, 1, 6, 6))
