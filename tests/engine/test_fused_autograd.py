"""What goes layer by layer through a fused network: derivatives of any order, torch.func. Compiling."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jvp, vmap

import lenet_ext


class Small(torch.nn.Module):
    """Every kind of stage: conv2d and pool, a pool alone, relu on its own features, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(2, 3, (3, 2), padding="same")
        self.conv2 = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1, groups=1, bias=False)
        self.fc1 = torch.nn.Linear(4 * 2 * 2, 5)
        self.fc2 = torch.nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        functions = torch.nn.functional
        x = functions.max_pool2d(functions.relu(self.conv1(x)), 2)
        x = functions.relu(functions.max_pool2d(self.conv2(x), 3, 1, 1))
        x = functions.max_pool2d(x, 2, 1, ceil_mode=True)
        return self.fc2(functions.relu(self.fc1(x.flatten(1))))


SHAPE = (2, 12, 10)


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Fused and not, in float64, of equal parameters that are not shared."""
    model = Small().double()
    fused = lenet_ext.fuse(copy.deepcopy(model), torch.randn(2, *SHAPE, dtype=torch.float64))
    return fused, model


def images(count: int = 3) -> Tensor:
    return torch.randn(count, *SHAPE, dtype=torch.float64, requires_grad=True)


def test_derivatives() -> None:
    fused, _ = networks()
    names = [name for name, _ in fused.named_parameters()]

    def function(image: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(fused, dict(zip(names, parameters, strict=True)), (image,))

    tensors = (images(2), *fused.parameters())
    assert gradcheck(function, tensors, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(function, tensors, check_fwd_over_rev=True, fast_mode=True)


def test_gradient_penalty() -> None:
    """A loss with the norm of the input's gradient in it, as trained by a plain backward()."""
    values, results = images(), []
    for model in networks():
        image = values.detach().requires_grad_()
        output = model(image)
        (slope,) = torch.autograd.grad(output.square().sum(), image, create_graph=True)
        (output.sum() + slope.square().sum()).backward()
        results.append([image.grad, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(*results)


def test_graph_reaches_what_the_input_was_made_of() -> None:
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    fused, model = networks()
    values, seconds = images().detach(), []
    for network in (fused, model):
        (first,) = torch.autograd.grad(network(values * scale).pow(2).sum(), scale, create_graph=True)
        seconds.append(torch.autograd.grad(first, scale)[0])
    torch.testing.assert_close(*seconds)


@pytest.mark.parametrize("vectorize", [False, True])
def test_hessian(vectorize: bool) -> None:
    image = images(1).detach()
    ours, theirs = (
        torch.autograd.functional.hessian(lambda x, m=m: m(x).square().sum(), image, vectorize=vectorize)
        for m in networks()
    )
    torch.testing.assert_close(ours, theirs)


def test_batched_gradients_without_a_graph() -> None:
    """torch.autograd.grad(is_grads_batched=True): many rows of a Jacobian at once."""
    image, slopes = images(), torch.randn(4, 3, 3, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad(m(image), [image, *m.parameters()], slopes, is_grads_batched=True)
        for m in networks()
    )
    torch.testing.assert_close(ours, theirs)


def test_shared_parameter() -> None:
    """One weight in two layers: both its gradients are counted, in first and second order."""
    layer = torch.nn.Linear(4, 4).double()
    model = torch.nn.Sequential(layer, torch.nn.ReLU(), layer)
    image = torch.randn(3, 4, dtype=torch.float64)
    results = []
    for network in (lenet_ext.fuse(model, image), model):
        first = torch.autograd.grad(network(image).pow(2).sum(), layer.weight, create_graph=True)[0]
        results.append((first, torch.autograd.grad(first.pow(2).sum(), layer.weight)[0]))
    torch.testing.assert_close(*results)


def test_per_sample_gradients() -> None:
    values, results = images().detach(), []
    for model in networks():
        parameters = {name: p.detach() for name, p in model.named_parameters()}

        def loss(parameters: dict[str, Tensor], image: Tensor, model=model) -> Tensor:
            return functional_call(model, parameters, (image.unsqueeze(0),)).square().sum()

        results.append(vmap(grad(loss), in_dims=(None, 0))(parameters, values))
    torch.testing.assert_close(*results)


def test_tangents() -> None:
    image, tangent = images().detach(), images().detach()
    ours, theirs = (jvp(model, (image,), (tangent,)) for model in networks())
    torch.testing.assert_close(ours, theirs)


def test_bytes() -> None:
    """uint8 images, normalized: second derivatives with respect to the parameters, and vmap."""
    numbers = {"mean": [0.4, 0.5], "std": [0.2, 0.3]}
    model = Small().double()
    fused = lenet_ext.fuse(copy.deepcopy(model), torch.zeros(2, *SHAPE, dtype=torch.float64), **numbers)
    pixels = torch.randint(256, (3, *SHAPE), dtype=torch.uint8)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(2, 1, 1) for v in numbers.values())
    values = (pixels / 255.0 - mean) / std
    results = []
    for network, batch in ((fused, pixels), (model, values)):
        weight = next(network.parameters())
        first = torch.autograd.grad(network(batch).pow(2).sum(), weight, create_graph=True)[0]
        second = torch.autograd.grad(first.pow(2).sum(), weight)[0]
        results.append((first, second, vmap(network)(batch.unsqueeze(1))))
    # The engine takes the normalization in float32.
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layer_by_layer_computes_what_the_engine_does(dtype: torch.dtype) -> None:
    """In the narrow types too: both compute in float32 and round at the end."""
    fused = lenet_ext.fuse(Small().to(dtype), torch.zeros(2, *SHAPE, dtype=dtype))
    image = images().detach().to(dtype)
    expected = fused(image)
    together = vmap(fused)(image.unsqueeze(1)).squeeze(1)
    assert together.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(together, expected, rtol=tolerance, atol=tolerance / 4)
    grads = [
        torch.autograd.grad(fused(image).square().sum(), list(fused.parameters()), create_graph=create)
        for create in (False, True)
    ]
    for actual, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=4 * tolerance, atol=4 * tolerance)


def test_parameters_of_another_dtype_are_refused_in_every_mode() -> None:
    fused, _ = networks()
    image = images().detach().float()
    for call in (fused, vmap(fused, in_dims=1)):
        with pytest.raises(
            RuntimeError, match=r"images must be torch.float64 like conv1\.weight, got torch.float32"
        ):
            call(image if call is fused else image.unsqueeze(1))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool) -> None:
    """Without graph breaks, forward and backward, for two batch sizes."""
    torch._dynamo.reset()
    fused, _ = networks()
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for batch in (4, 3):
        image, results = images(batch), []
        for network in (compiled, fused):
            output = network(image)
            results.append([output, *torch.autograd.grad(output.sum(), [image, *fused.parameters()])])
        for actual, expected in zip(*results, strict=True):
            assert torch.equal(actual, expected)
