"""LeNet: shapes, sizes, its native twin, and that it learns."""

from __future__ import annotations

import pytest
import torch

import lenet_ext


@pytest.mark.parametrize("image_size", [16, 17, 28, 32, 33, 47])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_equals_its_native_twin(image_size: int, in_channels: int) -> None:
    ours = lenet_ext.LeNet(in_channels, 7, image_size)
    theirs = lenet_ext.LeNet(in_channels, 7, image_size, layers=torch.nn)
    assert repr(ours) == repr(theirs)
    theirs.load_state_dict(ours.state_dict())
    assert all(type(m).__module__ != "lenet_ext.nn" for m in theirs.modules())
    images = torch.randn(5, in_channels, image_size, image_size)
    outputs = [model(images) for model in (ours, theirs)]
    assert outputs[0].shape == (5, 7)
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    for output in outputs:
        output.square().sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        error = torch.linalg.vector_norm(mine.grad - other.grad) / torch.linalg.vector_norm(other.grad)
        assert error < 1e-5


def test_layers_and_parameters() -> None:
    model = lenet_ext.LeNet()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": (6, 3, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc2.weight": (84, 120),
        "fc3.weight": (10, 84),
    }
    assert sum(p.numel() for p in model.parameters()) == 62_006


@pytest.mark.parametrize("image_size", [15, 5, 0, -3])
def test_images_too_small(image_size: int) -> None:
    with pytest.raises(ValueError, match=rf"image_size must be at least 16 pixels, got {image_size}"):
        lenet_ext.LeNet(image_size=image_size)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 28, 28), (3, 32, 32), (2, 3, 32, 33)])
def test_images_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must have shape \(N, 3, 32, 32\), got"):
        lenet_ext.LeNet()(torch.zeros(shape))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_learns(memory_format: torch.memory_format) -> None:
    """Twenty steps on eight random images: the loss falls as native torch's does, step by step."""
    ours = lenet_ext.LeNet(in_channels=1, image_size=16).to(memory_format=memory_format)
    theirs = lenet_ext.revert(ours)
    images = torch.randn(8, 1, 16, 16).to(memory_format=memory_format)
    targets = torch.arange(8)
    losses = []
    for model in (ours, theirs):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(20):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[19] < 0.7 * losses[0]
    torch.testing.assert_close(torch.tensor(losses[:20]), torch.tensor(losses[20:]), rtol=1e-2, atol=1e-2)


def test_empty_batch() -> None:
    model = lenet_ext.LeNet()
    output = model(torch.zeros(0, 3, 32, 32))
    assert output.shape == (0, 10)
    output.sum().backward()
    assert all(torch.count_nonzero(p.grad) == 0 for p in model.parameters())
