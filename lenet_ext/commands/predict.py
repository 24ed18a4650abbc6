"""`lenet-ext predict`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lenet_ext.training.errors import require


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files", metavar="IMAGE...", show_default=False)],
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint.safetensors of a run", show_default=False)],
) -> None:
    """Print what the images show, a line each: the most likely class, its probability, the file."""
    require("numpy", "PIL", "safetensors")
    from lenet_ext.training.predict import predict_files

    predictions = predict_files(checkpoint, images)
    width = max(len(name) for name, _ in predictions)
    for path, (name, probability) in zip(images, predictions, strict=True):
        print(f"{name:<{width}}  {probability:.4f}  {path}")
