"""`lenet-ext export`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lenet_ext.commands.predict import CheckpointOption, ModelOption, TrustOption
from lenet_ext.training.errors import InputError, printable, require


def export(
    out: Annotated[Path, typer.Argument(help="The ONNX file to write", metavar="FILE", show_default=False)],
    checkpoint: CheckpointOption,
    model: ModelOption = None,
    trust_model: TrustOption = False,
) -> None:
    """Write the network of a checkpoint to an ONNX file, from uint8 images to logits."""
    require("numpy", "safetensors", "onnx", "onnxscript")
    from lenet_ext.training.export import export_onnx

    if out.exists():
        raise InputError(f"{out}: exists already")
    export_onnx(checkpoint, out, model, trusts_model=trust_model)
    print(f"written to {printable(str(out))}")
