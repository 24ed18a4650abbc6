"""The network of a checkpoint as an ONNX file, which needs nothing of ours any more."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from lenet_ext.training.checkpoint import load_checkpoint
from lenet_ext.training.data import Normalization
from lenet_ext.training.errors import InputError, error_text
from lenet_ext.training.files import write_atomically
from lenet_ext.training.predict import network_in

LARGEST_FILE = 2**31 - 2**20  # of protobuf, with room for the graph
EXAMPLE_BATCH = 2  # one of 1 would be taken for a constant


class FromPixels(nn.Module):
    """Logits (N, classes) of images (N, C, H, W) as they are stored, uint8."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalize: Normalization) -> None:
        super().__init__()
        self.network = network
        for name, values in (("mean", normalize.mean), ("std", normalize.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images.to(torch.float32) - self.mean) / self.std)
        return logits


def export_onnx(checkpoint_path: Path, out: Path, model: str | None, *, trusts_model: bool) -> None:
    """Write the network, from uint8 "images" (batch, C, H, W) to "logits" (batch, classes), to `out`.

    model, trusts_model: see `trusted`. Raises `InputError` for a checkpoint that can't be used, and for a
    network that torch.onnx.export does not take.
    """
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no folder {out.parent}")
    checkpoint = load_checkpoint(checkpoint_path)
    metadata = checkpoint.metadata
    network = network_in(checkpoint, model, trusts_model, layers="torch")
    size = metadata.network["image_size"]
    shape = (EXAMPLE_BATCH, metadata.network["in_channels"], size, size)
    from_pixels = FromPixels(network, Normalization(metadata.mean, metadata.std)).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that are not needed here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts, which its user cannot change
            program = torch.onnx.export(
                from_pixels,
                (torch.zeros(shape, dtype=torch.uint8),),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise InputError(f"{checkpoint_path}: torch.onnx.export fails: {error_text(error)[:300]}") from error
    assert program is not None
    if sum(tensor.nbytes for tensor in from_pixels.state_dict().values()) > LARGEST_FILE:
        raise InputError(f"{checkpoint_path}: the network is larger than an ONNX file can be, 2 GiB")
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder) / "network.onnx", external_data=False)
        write_atomically(out, (Path(folder) / "network.onnx").read_bytes())
