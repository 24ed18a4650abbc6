"""Lightning: a short training of our layers, in float32 and in bfloat16, ends where torch.nn's does."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from twins import CLASSES, images, twins


class Classifier(lightning.LightningModule):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def trainer(folder: Path, precision: str = "32-true", **options: object) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        precision=precision,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        **options,
    )


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-4), ("bf16-mixed", 0.05)])
def test_training(precision: str, tolerance: float, tmp_path: Path) -> None:
    data = TensorDataset(images(64, torch.float32), torch.arange(64) % CLASSES)
    parameters = []
    for network in twins(torch.float32):
        start = [parameter.detach().clone() for parameter in network.parameters()]
        fit = trainer(tmp_path, precision, enable_checkpointing=False)
        fit.fit(Classifier(network), DataLoader(data, batch_size=16))
        parameters.append(list(network.parameters()))
        assert all((a - b).abs().max() > 1e-4 for a, b in zip(start, parameters[-1], strict=True))
    torch.testing.assert_close(*parameters, rtol=tolerance, atol=tolerance)


def test_checkpoint(tmp_path: Path) -> None:
    """Lightning's own checkpoint of our layers fills torch.nn's."""
    data = TensorDataset(images(8, torch.float32), torch.arange(8) % CLASSES)
    ours, native = twins(torch.float32)
    fit = trainer(tmp_path)
    fit.fit(Classifier(ours), DataLoader(data, batch_size=4))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "last.ckpt", network=native)
    batch = images(3, torch.float32)
    torch.testing.assert_close(loaded.network(batch), ours(batch))
