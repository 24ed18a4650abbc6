"""`lenet-ext sweep`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lenet_ext.commands import options as common
from lenet_ext.commands.options import option
from lenet_ext.commands.stopping import Stopped
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
    data: common.Data = None,
    root: common.Root = None,
    model: Annotated[
        str | None, option("A network of your own, as for train", "the LeNet", metavar=FORM)
    ] = None,
    trust_model: Annotated[
        bool, typer.Option("--trust-model", help="Run the text of the network in the sweep to resume")
    ] = False,
    image_size: common.ImageSize = None,
    epochs: common.Epochs = None,
    batch_size: common.BatchSize = None,
    optimizer: common.Optimizer = None,
    schedule: common.Schedule = None,
    label_smoothing: common.LabelSmoothing = None,
    augment: common.Augment = None,
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
    common.keep_matplotlib_to_itself()
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
    folder = common.folder_of(out, "sweep-", data, model)
    try:
        with SweepReport(SteadyConsole()) as report:
            result = sweep_in_folder(
                folder,
                options,
                common.resume_of(resume),
                report,
                trusts_model=trust_model,
                chunk=chunk,
                ray=ray,
            )
    except Stopped as stopped:
        spread = [] if ray is None else ["--ray", *([ray] if ray else [])]
        again = common.resuming_command("sweep", folder, model, trust_model, *spread)
        print(f"lenet-ext: {stopped}; {again} goes on from what is done", file=sys.stderr)
        raise
    report.summarize(result, folder)
