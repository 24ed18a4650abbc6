"""ONNX: a network of our layers is exported through `revert`, and ONNX Runtime computes what we do."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch.export import Dim

import lenet_ext
import lenet_ext.nn as lnn


def export(model: torch.nn.Module, image: torch.Tensor, path: Path) -> onnxruntime.InferenceSession:
    program = torch.onnx.export(model, (image,), dynamic_shapes=({0: Dim("batch")},), dynamo=True)
    program.save(path)
    onnx.checker.check_model(path, full_check=True)
    return onnxruntime.InferenceSession(path)


def test_lenet(tmp_path: Path) -> None:
    """Any batch size, on as many images as ONNX Runtime then gets."""
    model = lenet_ext.LeNet().eval()
    session = export(lenet_ext.revert(model), torch.randn(2, 3, 32, 32), tmp_path / "lenet.onnx")
    for count in (1, 5, 64):
        batch = torch.randn(count, 3, 32, 32)
        (output,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), model(batch), rtol=1e-4, atol=1e-5)


def test_options_of_layers(tmp_path: Path) -> None:
    model = torch.nn.Sequential(
        lnn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=2, groups=2),
        lnn.ReLU(inplace=True),
        lnn.MaxPool2d((3, 2), 2, padding=(1, 0), ceil_mode=True),
        lnn.Conv2d(6, 3, 3, padding="same", bias=False),
        torch.nn.Flatten(2),
        lnn.Linear(25, 2),
    ).eval()
    image = torch.randn(2, 4, 19, 11)
    session = export(lenet_ext.revert(model), image, tmp_path / "layers.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), model(image), rtol=1e-4, atol=1e-5)


def test_without_revert_the_error_names_the_operator() -> None:
    with pytest.raises(torch.onnx.errors.OnnxExporterError, match="No ONNX function found") as error:
        torch.onnx.export(lenet_ext.LeNet().eval(), (torch.randn(2, 3, 32, 32),), dynamo=True)
    assert "lenet_ext.conv2d.default" in str(error.value)


def test_a_fused_network_is_refused_and_stays_as_it_is() -> None:
    """There is no translation of the engine's operator; tracing leaves no tensor of its own behind."""
    model, image = lenet_ext.LeNet().eval(), torch.randn(2, 3, 32, 32)
    fused = lenet_ext.fuse(model, image)
    before = fused(image)
    with pytest.raises(torch.onnx.OnnxExporterError):
        torch.onnx.export(fused, (image,), dynamo=True)
    assert torch.equal(fused(image), before)
    lenet_ext.TrainStep(fused, lr=0.1)(image, torch.tensor([1, 2]))
    assert not torch.equal(fused(image), before)
