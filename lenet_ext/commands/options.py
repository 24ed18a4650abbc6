"""The options that `lenet-ext train` and `lenet-ext sweep` have in common."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lenet_ext.training.errors import InputError, printable

if TYPE_CHECKING:
    from lenet_ext.training.session import Resume

# What `--resume` stands for: typer has no options whose value may be left out.
RESUME_ALONE = "--resume=always"


def option(text: str, default: str, **extra: Any) -> Any:
    """An option whose default depends on the data or on the run to resume, so None stands for "not given"."""
    return typer.Option(help=text, show_default=default, **extra)


Data = Annotated[
    str | None,
    option("digits (inside scikit-learn), mnist, fashion-mnist, cifar10 or folder", "digits", metavar="NAME"),
]
Root = Annotated[Path | None, option("The folder the data lies in, as torchvision lays it out", "data")]
ImageSize = Annotated[
    int | None,
    option("Resize the images of a folder to so many pixels, and crop them square", "as they are"),
]
Epochs = Annotated[int | None, option("How often to go through the training images", "by data set")]
BatchSize = Annotated[int | None, option("Images in a step", "64, digits 32")]
Optimizer = Annotated[str | None, option("sgd, adam or adamw", "sgd", metavar="NAME")]
Schedule = Annotated[
    str | None,
    option("Of the learning rate: cosine, linear, step or constant", "cosine", metavar="NAME"),
]
LabelSmoothing = Annotated[float | None, option("That of the cross entropy", "0")]
Augment = Annotated[
    bool | None,
    option("Train on images shifted by up to 4 pixels and, but for digits, mirrored", "no-augment"),
]


def folder_of(out: Path | None, kind: str, data: str | None, model: str | None) -> Path:
    """`--out`, or the folder that a run of this kind writes into by default."""
    name = "" if model is None else f"-{model.rpartition(':')[2]}"
    return out or Path("runs") / f"{kind}{data or 'digits'}{name}"


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
