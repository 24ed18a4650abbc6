"""What surrounds a training step: autocast, activation checkpointing, determinism, the profiler."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch.utils.flop_counter import FlopCounterMode
from twins import Calls, images, output_and_gradients, twins

import lenet_ext


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cache", [False, True])
def test_autocast_of_a_network(dtype: torch.dtype, cache: bool) -> None:
    """Each layer's output dtype is the native one; gradients are float32, and near."""
    batch, results, dtypes = images(dtype=torch.float32), [], []
    for model in twins(torch.float32):
        seen: list[torch.dtype] = []
        for layer in model:
            layer.register_forward_hook(lambda m, args, output, seen=seen: seen.append(output.dtype))

        def call(x: Tensor, model: torch.nn.Module = model) -> Tensor:
            with torch.autocast("cpu", dtype=dtype, cache_enabled=cache):
                return model(x)

        results.append(output_and_gradients(call, model, batch))
        dtypes.append(seen)
    assert dtypes[0] == dtypes[1] == [dtype] * 9
    assert [t.dtype for t in results[0]] == [t.dtype for t in results[1]]
    assert {t.dtype for t in results[0][1:]} == {torch.float32}
    # A few roundings of sums of some ten numbers around one.
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


def test_autocast_switched_off_inside() -> None:
    """A region in float32 within one in bfloat16, and float64 that stays."""
    batch = images(dtype=torch.float32)
    for model in twins(torch.float32):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.autocast("cpu", enabled=False):
                assert model(batch).dtype == torch.float32
            assert model(batch).dtype == torch.bfloat16
            assert model.double()(batch.double()).dtype == torch.float64


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant: bool) -> None:
    """Recomputed in backward, in one piece and in segments: bitwise what is computed without."""
    ours, native = twins()
    batch = images()
    expected = output_and_gradients(ours, ours, batch)
    torch.testing.assert_close(expected, output_and_gradients(native, native, batch))

    def whole(x: Tensor) -> Tensor:
        return checkpoint(ours, x, use_reentrant=use_reentrant)

    def segments(x: Tensor) -> Tensor:
        return checkpoint_sequential(ours, 3, x, use_reentrant=use_reentrant)

    for call in (whole, segments):
        ours.zero_grad()
        x = batch.clone().requires_grad_()
        with Calls() as called:
            output = call(x)
            # torch.autograd.grad is not for reentrant checkpoints.
            output.double().square().sum().backward()
        assert called.names.count("conv2d") == 4
        actual = (output, x.grad, *(parameter.grad for parameter in ours.parameters()))
        for mine, other in zip(actual, expected, strict=True):
            assert torch.equal(mine, other)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
def test_deterministic_algorithms() -> None:
    """Nothing refuses, in second order neither, and torch's filling of fresh memory changes no result."""
    ours, native = twins()
    batch = images()
    first = output_and_gradients(ours, ours, batch)
    torch.testing.assert_close(first, output_and_gradients(native, native, batch))
    for mine, other in zip(output_and_gradients(ours, ours, batch), first, strict=True):
        assert torch.equal(mine, other)
    x = batch.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()


def test_names_in_the_profiler() -> None:
    """Operators and autograd nodes are told apart, with shapes; so are the fused engine's."""
    model = lenet_ext.LeNet(in_channels=1, image_size=16)
    batch = torch.randn(2, 1, 16, 16)
    fused = lenet_ext.fuse(model, batch)
    step, net = lenet_ext.TrainStep(fused, lr=0.1), fused.freeze()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        model(batch).sum().backward()
        fused(batch).sum().backward()
        step(batch, torch.tensor([0, 1]))
        net(batch)
    shapes = {event.name: event.input_shapes for event in profiled.events()}
    operators = {name.removeprefix("lenet_ext::") for name in shapes if name.startswith("lenet_ext::")}
    assert operators == {
        *("conv2d", "conv2d_weight_grad", "conv2d_grads", "linear", "linear_grads"),
        *("relu", "relu_grad", "max_pool2d", "max_pool2d_input_grad"),
        *("network_forward", "network_backward", "network_train", "network"),
    }
    assert {
        f"{name}Backward" for name in ("Conv2d", "Linear", "MaxPool2d", "ReLU", "NetworkFunction")
    } <= set(shapes)
    assert shapes["lenet_ext::max_pool2d"][0] in ([2, 6, 12, 12], [2, 16, 2, 2])


@pytest.mark.parametrize("frozen", [None, "weight", "input"])
def test_flop_counter(frozen: str | None) -> None:
    """torch counts the operations of our layers, forward and backward, as it does those of torch.nn's."""
    counts = []
    for layers in (lenet_ext.nn, torch.nn):
        model = lenet_ext.LeNet(in_channels=2, image_size=20, layers=layers)
        model.conv2.weight.requires_grad_(frozen != "weight")
        batch = torch.randn(3, 2, 20, 20, requires_grad=frozen != "input")
        with FlopCounterMode(display=False) as counter:
            model(batch).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_anomaly_detection_names_the_layer() -> None:
    """NaN in a backward is reported with our node's name."""
    layer = lenet_ext.nn.Linear(3, 2)
    torch.nn.init.constant_(layer.weight, float("nan"))
    images = torch.ones(1, 3, requires_grad=True)
    with (
        pytest.warns(UserWarning, match="Error detected in LinearBackward"),
        pytest.raises(RuntimeError, match="Function 'LinearBackward' returned nan values"),
        torch.autograd.detect_anomaly(),
    ):
        layer(images).sum().backward()
