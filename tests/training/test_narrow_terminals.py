"""What the program prints where there is little room: nothing is cut."""

from __future__ import annotations

import io
import re
from dataclasses import asdict

import pytest
from processes import python
from rich.console import Console
from rich.table import Table
from training_helpers import Program

from lenet_ext.commands.progress import TrainingProgress
from lenet_ext.commands.tables import print_table
from lenet_ext.training.config import TrainingConfig


def table() -> Table:
    table = Table("", "lenet_ext", "native torch", title="a run")
    table.add_row("images/s in training (median epoch)", "12,345", "1,234")
    table.add_row("", "[x]", "y")
    return table


@pytest.mark.parametrize("columns", [20, 30, 40, 60, 80])
def test_tables_lose_no_word(columns: int) -> None:
    output = io.StringIO()
    print_table(Console(file=output, width=columns), table(), markup=False)
    words = re.sub(r"\W", " ", output.getvalue()).split()
    for word in [
        "images",
        "s",
        "in",
        "training",
        "median",
        "epoch",
        "12",
        "345",
        "1",
        "234",
        "lenet_ext",
        "native",
        "torch",
        "x",
        "y",
    ]:
        assert word in words
    assert all(len(line) <= columns for line in output.getvalue().splitlines())


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, "epoch 12 native torch ━━━━━━━━━╸    80% loss 0.1815 2,345 images/s --:-- left"),
        (79, "epoch 12 native torch ━━━━━━━━━╸    80% loss 0.1815 2,345 images/s --:-- left"),
        (75, "epoch 12 native torch  80% loss 0.1815 2,345 images/s --:-- left"),
        (60, "epoch 12 native torch  80% loss 0.1815 --:-- left"),
        (40, "epoch 12 native torch  80% loss 0.1815"),
        (30, "epoch 12  80% loss 0.1815"),
        (20, "epoch 12  80%"),
    ],
)
def test_the_live_line_leaves_out_what_does_not_fit(columns: int, line: str) -> None:
    output = io.StringIO()
    progress = TrainingProgress(Console(file=output, width=columns))
    fields = {"engine": "native torch", "loss": "loss 0.1815", "speed": "2,345 images/s"}
    progress.add_task("epoch 12", total=10, completed=8, **fields)
    progress.console.print(progress.get_renderable())
    assert output.getvalue().rstrip() == line


@pytest.mark.parametrize("columns", ["20", "72", "73", "80"])
def test_help_names_every_option(columns: str) -> None:
    result = python("-m", "lenet_ext", "train", "--help", environment={"COLUMNS": columns})
    for option in asdict(TrainingConfig()):
        assert f"--{option.replace('_', '-')}" in result.stdout
    assert "…" not in result.stdout


@pytest.mark.parametrize("columns", ["20", "80"])
def test_help_describes_every_command(columns: str) -> None:
    result = python("-m", "lenet_ext", "--help", environment={"COLUMNS": columns})
    assert "..." not in result.stdout.replace("[ARGS]...", "")
    assert "both ways; exit code 1 if one differs." in " ".join(re.sub("│", "", result.stdout).split())


@pytest.mark.parametrize("columns", ["20", "80"])
def test_commands_cut_nothing(program: Program, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for arguments in (["info"], ["train", "--epochs", 1]):
        result = program(*arguments)
        assert result.code == 0, result.err
        assert "…" not in result.out
