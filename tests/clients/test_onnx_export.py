"""`lenet-ext export`: ONNX Runtime computes what the network of the checkpoint does."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from processes import python

from lenet_ext.training.checkpoint import load_checkpoint
from lenet_ext.training.data import Normalization
from lenet_ext.training.predict import network_in

NETWORK = """
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.fc = nn.Dropout(), nn.Linear(8, num_classes)

    def forward(self, x):
        y = F.max_pool2d(F.gelu(self.norm(self.conv(x))), 2)
        return self.fc(self.drop((y + y.tanh()).mean((2, 3))))
"""


@pytest.mark.parametrize("engine", ["fused", "layers"])
@pytest.mark.parametrize("model", [None, "net.py:Net"])
def test_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str | None, engine: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORK)
    own = ("--model", model) if model else ()
    for arguments in (
        ("train", "--no-compare", "--epochs", "1", "--engine", engine, *own, "--out", "out"),
        ("export", "network.onnx", "--checkpoint", "out/checkpoint.safetensors", *own),
    ):
        finished = python("-m", "lenet_ext", *arguments)
        assert (finished.returncode, finished.stderr) == (0, "")
    onnx.checker.check_model("network.onnx", full_check=True)
    session = onnxruntime.InferenceSession("network.onnx")
    checkpoint = load_checkpoint(Path("out/checkpoint.safetensors"))
    network = network_in(checkpoint, model, trusts_model=False)
    normalize = Normalization(checkpoint.metadata.mean, checkpoint.metadata.std)
    for count in (1, 7):
        images = torch.randint(256, (count, 1, 32, 32), dtype=torch.uint8)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network(normalize(images)), rtol=1e-4, atol=1e-5)
