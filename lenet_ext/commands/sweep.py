"""`lenet-ext sweep`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lenet_ext.commands.stopping import Stopped
from lenet_ext.commands.train import (
    DATA_HELP,
    keep_matplotlib_to_itself,
    option,
    resume_of,
    resuming_command,
)
from lenet_ext.training.errors import InputError, require
from lenet_ext.training.own_network import FORM

# What `--ray` stands for without an address: typer has no options whose value may be left out.
RAY_ALONE = "--ray="


def sweep(
    lr: Annotated[
        str | None, option("Peak learning rates", "0.02, adam and adamw 0.001", metavar="NUMBER,...")
    ] = None,
    momentum: Annotated[str | None, option("Momenta of SGD", "0.9", metavar="NUMBER,...")] = None,
    weight_decay: Annotated[
        str | None, option("The optimizer's weight decays", "0", metavar="NUMBER,...")
    ] = None,
    seeds: Annotated[int | None, option("How many seeds each combination is trained with", "1")] = None,
    seed: Annotated[int | None, option("The first seed", "0")] = None,
    data: Annotated[str | None, option(DATA_HELP, "digits", metavar="NAME")] = None,
    root: Annotated[
        Path | None, option("The folder the data lies in, as torchvision lays it out", "data")
    ] = None,
    model: Annotated[
        str | None, option("A network of your own, as for train", "the LeNet", metavar=FORM)
    ] = None,
    trust_model: Annotated[
        bool, typer.Option("--trust-model", help="Run the text of the network in the sweep to resume")
    ] = False,
    image_size: Annotated[
        int | None,
        option("Resize the images of a folder to so many pixels, and crop them square", "as they are"),
    ] = None,
    epochs: Annotated[
        int | None, option("How often to go through the training images", "by data set")
    ] = None,
    batch_size: Annotated[int | None, option("Images in a step", "64, digits 32")] = None,
    optimizer: Annotated[str | None, option("sgd, adam or adamw", "sgd", metavar="NAME")] = None,
    schedule: Annotated[
        str | None,
        option("Of the learning rate: cosine, linear, step or constant", "cosine", metavar="NAME"),
    ] = None,
    label_smoothing: Annotated[float | None, option("That of the cross entropy", "0")] = None,
    augment: Annotated[
        bool | None,
        option("Train on images shifted by up to 4 pixels and, but for digits, mirrored", "no-augment"),
    ] = None,
    chunk: Annotated[
        int | None, option("How many networks are trained at once", "as many as memory holds")
    ] = None,
    ray: Annotated[
        str | None,
        option(
            "Train on the Ray cluster at this address; --ray alone starts one on this machine",
            "no",
            metavar="[ADDRESS]",
        ),
    ] = None,
    out: Annotated[
        Path | None, option("The folder to write into", "runs/sweep-DATA or runs/sweep-DATA-NAME")
    ] = None,
    resume: Annotated[
        str | None,
        option(
            "Go on with the sweep in --out; --resume=auto starts one if there is none",
            "no",
            metavar="[=auto]",
        ),
    ] = None,
) -> None:
    """Train all combinations of learning rates, momenta, weight decays and seeds at once."""
    keep_matplotlib_to_itself()
    require("numpy", "PIL", "safetensors", "matplotlib")
    from lenet_ext.commands.progress import SteadyConsole
    from lenet_ext.commands.sweep_report import SweepReport
    from lenet_ext.training.processes import joined
    from lenet_ext.training.sweep.session import sweep_in_folder

    # They join, since torchrun ends the first before it has spoken where another one ends earlier.
    with joined() as processes, processes.agreed():
        if processes.count > 1:
            raise InputError(
                f"WORLD_SIZE={processes.count}: sweep trains in one process; start it without torchrun, "
                "and spread it by --ray"
            )

    options = {
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "seeds": seeds,
        "seed": seed,
        "data": data,
        "root": None if root is None else str(root),
        "model": model,
        "image_size": image_size,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "schedule": schedule,
        "label_smoothing": label_smoothing,
        "augment": augment,
    }
    name = "" if model is None else f"-{model.rpartition(':')[2]}"
    folder = out or Path("runs") / f"sweep-{data or 'digits'}{name}"
    try:
        with SweepReport(SteadyConsole()) as report:
            result = sweep_in_folder(
                folder,
                options,
                resume_of(resume),
                report,
                trusts_model=trust_model,
                chunk=chunk,
                ray=ray,
            )
    except Stopped as stopped:
        spread = [] if ray is None else ["--ray", *([ray] if ray else [])]
        again = resuming_command("sweep", folder, model, trust_model, *spread)
        print(f"lenet-ext: {stopped}; {again} goes on from what is done", file=sys.stderr)
        raise
    report.summarize(result, folder)
