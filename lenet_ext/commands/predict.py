"""`lenet-ext predict`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lenet_ext.training.errors import InputError, printable, require
from lenet_ext.training.own_network import FORM

CheckpointOption = Annotated[
    Path, typer.Option("--checkpoint", help="The checkpoint.safetensors of a run", show_default=False)
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="The program of the network, for one of your own",
        metavar=FORM,
        show_default="the LeNet",
    ),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-model", help="Run the text of the network in the checkpoint")
]


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files", metavar="IMAGE", show_default=False)],
    checkpoint: CheckpointOption,
    model: ModelOption = None,
    trust_model: TrustOption = False,
) -> None:
    """Print what the images show, a line each: the most likely class, its probability, the file.

    Files that can't be used are named after that, a line each on stderr, with exit code 2.
    """
    require("numpy", "PIL", "safetensors")
    from lenet_ext.training.predict import predict_files

    results = predict_files(checkpoint, images, model, trusts_model=trust_model)
    errors = [str(result) for result in results if isinstance(result, InputError)]
    predictions = [
        (path, result)
        for path, result in zip(images, results, strict=True)
        if not isinstance(result, InputError)
    ]
    names = [printable(prediction.class_name) for _, prediction in predictions]
    width = max(map(len, names), default=0)
    for name, (path, prediction) in zip(names, predictions, strict=True):
        print(f"{name:<{width}}  {prediction.probability:.4f}  {printable(str(path))}")
    if transparent := sum(prediction.header.transparent for _, prediction in predictions):
        remark = f"{transparent} of {len(predictions)} images have transparency: laid over white"
        print(f"lenet-ext: {remark}", file=sys.stderr)
    if errors:
        raise InputError(*errors)
