"""`lenet-ext train`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lenet_ext.commands import options as common
from lenet_ext.commands.options import option
from lenet_ext.commands.stopping import Stopped
from lenet_ext.training.errors import require
from lenet_ext.training.own_network import FORM


def train(
    data: common.Data = None,
    root: common.Root = None,
    model: Annotated[
        str | None,
        option(
            "A network of your own: a class or function, called with those of in_channels, num_classes and "
            "image_size that it takes",
            "the LeNet",
            metavar=FORM,
        ),
    ] = None,
    trust_model: Annotated[
        bool, typer.Option("--trust-model", help="Run the text of the network in the checkpoint to resume")
    ] = False,
    image_size: common.ImageSize = None,
    epochs: common.Epochs = None,
    batch_size: common.BatchSize = None,
    optimizer: common.Optimizer = None,
    lr: Annotated[float | None, option("Peak learning rate", "0.02, adam and adamw 0.001")] = None,
    momentum: Annotated[float | None, option("Momentum of SGD", "0.9")] = None,
    weight_decay: Annotated[float | None, option("The optimizer's weight decay", "0")] = None,
    schedule: common.Schedule = None,
    label_smoothing: common.LabelSmoothing = None,
    augment: common.Augment = None,
    engine: Annotated[
        str | None,
        option(
            "fused (ours, the whole net at once), layers (ours) or torch (native)", "fused", metavar="NAME"
        ),
    ] = None,
    device: Annotated[str | None, option("auto, cpu or cuda", "auto", metavar="NAME")] = None,
    seed: Annotated[
        int | None, option("Decides the first weights and all that is drawn in training", "0")
    ] = None,
    out: Annotated[Path | None, option("The folder to write into", "runs/DATA or runs/DATA-NAME")] = None,
    resume: Annotated[
        str | None,
        option(
            "Go on from the checkpoint in --out; --resume=auto starts a run if there is none",
            "no",
            metavar="[=auto]",
        ),
    ] = None,
    compare: Annotated[
        bool | None, option("Train native torch's twin beside it", "compare, unless --engine torch")
    ] = None,
) -> None:
    """Train a network, write its checkpoint, metrics and pictures, and compare it with native torch."""
    common.keep_matplotlib_to_itself()
    require("numpy", "PIL", "safetensors", "matplotlib")
    from lenet_ext.commands.progress import SteadyConsole
    from lenet_ext.commands.report import SilentReport, TrainingReport
    from lenet_ext.training.processes import joined
    from lenet_ext.training.session import train_in_folder

    options = {
        "data": data,
        "root": None if root is None else str(root),
        "model": model,
        "image_size": image_size,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "label_smoothing": label_smoothing,
        "augment": augment,
        "engine": engine,
        "device": device,
        "seed": seed,
        "compare": compare,
    }
    folder = common.folder_of(out, "", data, model)
    with joined() as processes:
        with processes.agreed():
            resumes = common.resume_of(resume)
        report = TrainingReport(SteadyConsole()) if processes.is_first else SilentReport()
        try:
            with report:
                run = train_in_folder(
                    folder, options, resumes, report, trusts_model=trust_model, processes=processes
                )
        except Stopped as stopped:
            if processes.is_first:
                again = common.resuming_command("train", folder, model, trust_model)
                again += ", started by torchrun again," if processes.count > 1 else ""
                print(
                    f"lenet-ext: {stopped}; {again} goes on from the last epoch that was done",
                    file=sys.stderr,
                )
            raise
        report.summarize(run, folder)
