"""The pictures of a run: no matplotlib of the user's and no name spoils them, nor do they spoil the run."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from processes import python
from training_helpers import Program, write_image_folders

from lenet_ext.training import plots

TRAIN = ("train", "--data", "folder", "--epochs", 1, "--no-compare", "--out", "out")


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, ""),
        ({"MPLBACKEND": "nonsense"}, ""),
        ({}, "text.usetex: True\nsavefig.format: pdf\nbackend: nonsense"),
        ({}, "\udcff"),
    ],
)
def test_settings_of_the_user(tmp_path: Path, environment: dict[str, str | None], settings: str) -> None:
    write_image_folders(tmp_path / "data")
    (tmp_path / "config/matplotlib").mkdir(parents=True)
    (tmp_path / "config/matplotlib/matplotlibrc").write_bytes(settings.encode(errors="surrogateescape"))
    arguments = ["-m", "lenet_ext", *map(str, TRAIN)]
    environment = {**environment, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    result = python(*arguments, cwd=tmp_path, environment=environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert "curves.png, filters.png, confusion.png" in result.stdout
    assert (tmp_path / "out/confusion.png").read_bytes().startswith(b"\x89PNG")


def test_settings_in_the_current_folder_that_cannot_be_read(tmp_path: Path) -> None:
    """Matplotlib reads these before all others; it says which file, we that nothing is done."""
    (tmp_path / "matplotlibrc").write_bytes(b"\xff")
    result = python("-m", "lenet_ext", *map(str, TRAIN), cwd=tmp_path)
    assert result.returncode == 2
    theirs, ours = result.stderr.splitlines()
    assert "matplotlibrc" in theirs
    assert ours.startswith("lenet-ext: error: the package matplotlib cannot be imported: ")


def test_matplotlibs_settings_are_not_those_of_the_caller() -> None:
    counts = torch.tensor([[3, 1], [0, 4]])
    plain = plots.confusion(counts, ["a", "b"])
    with mpl.rc_context({"text.usetex": True, "font.size": 30, "axes.facecolor": "red"}):
        assert plots.confusion(counts, ["a", "b"]) == plain
        assert mpl.rcParams["font.size"] == 30


def test_dollars_are_no_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*arguments: object) -> None:
        raise AssertionError("a formula was read")

    monkeypatch.setattr(mpl.mathtext.MathTextParser, "parse", parse)
    plots.confusion(torch.eye(3, dtype=torch.int64), ["$5-$10", "$\\frac$", "50 %"])


@pytest.mark.parametrize("classes", [1, 2, 25])
def test_long_names_leave_room_for_the_matrix(classes: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.confusion(torch.eye(classes, dtype=torch.int64), ["W" * 300] * classes)


@pytest.mark.parametrize("names", ["0123456789", ["cat", "ship", "truck"], ["W" * 20] * 25])
def test_nothing_touches_the_edge(names: Sequence[str]) -> None:
    """The layout left the word "true" half outside of the picture."""
    classes = len(names)
    record = {"train_loss": 1.0, "test_accuracy": 0.5}
    for content in (
        plots.confusion(torch.eye(classes, dtype=torch.int64), names),
        plots.curves({"fused": [record] * 3, "torch": [record] * 3}),
        plots.filters(torch.rand(6, 3, 5, 5)),
    ):
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
        for edge in (pixels[:5], pixels[-5:], pixels[:, :5], pixels[:, -5:]):
            assert edge.min() == 255


def test_a_picture_that_fails_costs_that_picture(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image_folders(Path("data"))

    def fail(*arguments: object) -> bytes:
        raise ValueError("no\nink")

    monkeypatch.setattr(plots, "filters", fail)
    Path("out/.confusion.png.tmp").mkdir(parents=True)  # which makes writing fail
    result = program(*TRAIN)
    assert result.code == 0
    assert result.err.splitlines() == [
        "lenet-ext: out/filters.png: cannot be drawn: no ink",
        "lenet-ext: out/confusion.png: cannot be written: Is a directory",
    ]
    assert "test accuracy" in result.out
    assert "metrics.jsonl, curves.png\n" in result.out


def test_letters_that_the_font_lacks_are_told(program: Program) -> None:
    write_image_folders(Path("data"), classes=("猫", "犬"))
    result = program(*TRAIN)
    assert result.code == 0
    (line,) = result.err.splitlines()
    assert line.startswith("lenet-ext: out/confusion.png: Glyph ")
    assert Path("out/confusion.png").exists()
