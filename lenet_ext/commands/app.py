"""The typer application: collects the commands and turns wrong usage into an `InputError`."""

from __future__ import annotations

from collections.abc import Sequence
from shutil import get_terminal_size

import typer

from lenet_ext.commands import check, export, info, predict, sweep, train
from lenet_ext.commands.options import RESUME_ALONE
from lenet_ext.training.errors import InputError, error_text

PROGRAM = "lenet-ext"

# Typer's exception for wrong usage is click's, whose home differs between typer's versions.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

# Rich's help cuts the names of the options where it has less room.
NARROWEST_RICH_HELP = 73

app = typer.Typer(
    name=PROGRAM,
    rich_markup_mode="rich" if get_terminal_size().columns >= NARROWEST_RICH_HELP else None,
    help="Train, use and measure small networks on hand-written kernels.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train.train, sweep.sweep, predict.predict, export.export, check.check, info.info):
    app.command(short_help=(command.__doc__ or "").splitlines()[0])(command)  # which is never cut


def run(arguments: Sequence[str]) -> int:
    """Run the program with these arguments; returns its exit code."""
    given = list(arguments)
    if given[:1] in (["train"], ["sweep"]):
        given = [RESUME_ALONE if text == "--resume" else text for text in given]
    if given[:1] == ["sweep"]:
        following = [*given[1:], "-"]
        given = [
            sweep.RAY_ALONE if text == "--ray" and after.startswith("-") else text
            for text, after in zip(given, following, strict=True)
        ]
    try:
        result = app(given or ["--help"], prog_name=PROGRAM, standalone_mode=False)
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        command = PROGRAM if context is None else context.command_path
        raise InputError(f"{_text_of(error)} (see {command} --help)") from error
    return result if isinstance(result, int) else 0


def _text_of(error: Exception) -> str:
    text = str(error.format_message()) if hasattr(error, "format_message") else str(error)
    return error_text(text).rstrip(".")
