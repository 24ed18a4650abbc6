"""`lenet-ext train`"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lenet_ext.commands.stopping import Stopped
from lenet_ext.training.errors import InputError, printable, require
from lenet_ext.training.own_network import FORM

if TYPE_CHECKING:
    from lenet_ext.training.session import Resume

# What `--resume` stands for: typer has no options whose value may be left out.
RESUME_ALONE = "--resume=always"
DATA_HELP = "digits (inside scikit-learn), mnist, fashion-mnist, cifar10 or folder"


def option(text: str, default: str, **extra: Any) -> Any:
    """An option whose default depends on the data or on the run to resume, so None stands for "not given"."""
    return typer.Option(help=text, show_default=default, **extra)


def train(
    data: Annotated[str | None, option(DATA_HELP, "digits", metavar="NAME")] = None,
    root: Annotated[
        Path | None, option("The folder the data lies in, as torchvision lays it out", "data")
    ] = None,
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
    image_size: Annotated[
        int | None,
        option("Resize the images of a folder to so many pixels, and crop them square", "as they are"),
    ] = None,
    epochs: Annotated[
        int | None, option("How often to go through the training images", "by data set")
    ] = None,
    batch_size: Annotated[int | None, option("Images in a step", "64, digits 32")] = None,
    optimizer: Annotated[str | None, option("sgd, adam or adamw", "sgd", metavar="NAME")] = None,
    lr: Annotated[float | None, option("Peak learning rate", "0.02, adam and adamw 0.001")] = None,
    momentum: Annotated[float | None, option("Momentum of SGD", "0.9")] = None,
    weight_decay: Annotated[float | None, option("The optimizer's weight decay", "0")] = None,
    schedule: Annotated[
        str | None,
        option("Of the learning rate: cosine, linear, step or constant", "cosine", metavar="NAME"),
    ] = None,
    label_smoothing: Annotated[float | None, option("That of the cross entropy", "0")] = None,
    augment: Annotated[
        bool | None,
        option("Train on images shifted by up to 4 pixels and, but for digits, mirrored", "no-augment"),
    ] = None,
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
    keep_matplotlib_to_itself()
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
    name = "" if model is None else f"-{model.rpartition(':')[2]}"
    folder = out or Path("runs") / f"{data or 'digits'}{name}"
    with joined() as processes:
        with processes.agreed():
            resumes = resume_of(resume)
        report = TrainingReport(SteadyConsole()) if processes.is_first else SilentReport()
        try:
            with report:
                run = train_in_folder(
                    folder, options, resumes, report, trusts_model=trust_model, processes=processes
                )
        except Stopped as stopped:
            if processes.is_first:
                again = resuming_command("train", folder, model, trust_model)
                again += ", started by torchrun again," if processes.count > 1 else ""
                print(
                    f"lenet-ext: {stopped}; {again} goes on from the last epoch that was done",
                    file=sys.stderr,
                )
            raise
        report.summarize(run, folder)


def resuming_command(command: str, folder: Path, model: str | None, trusts_model: bool, *options: str) -> str:
    """What the user types to go on. options: those of `command` alone."""
    network = [] if model is None else ["--model", model]
    network += ["--trust-model"] if trusts_model else []
    words = ["lenet-ext", command, "--resume", "--out", str(folder), *network, *options]
    return printable(shlex.join(words))


def resume_of(value: str | None) -> Resume:
    """What `--resume` says; `RESUME_ALONE` is put in place of the option without a value."""
    known: dict[str | None, Resume] = {None: False, "always": True, "auto": "auto"}
    if value not in known:
        raise InputError(f"--resume={value}: wanted --resume or --resume=auto")
    return known[value]


def keep_matplotlib_to_itself() -> None:
    """What matplotlib reads as it is imported: a notebook's backend or a bad matplotlibrc would stop that."""
    os.environ.update(MPLBACKEND="agg", MATPLOTLIBRC=os.devnull)
