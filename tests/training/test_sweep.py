"""Sweeps: each member is bit for bit the run with its settings, however the sweep was cut up."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import python
from safetensors.torch import load_file
from test_own_network import NETWORK
from test_training import Silent, equal
from training_helpers import Program, files_in, write_image_folders

from lenet_ext.training.checkpoint import load_checkpoint, state_tensors
from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.data import load_dataset
from lenet_ext.training.own_network import OwnNetwork
from lenet_ext.training.session import train_in_folder
from lenet_ext.training.sweep.chunk import best_of
from lenet_ext.training.sweep.config import new_sweep
from lenet_ext.training.sweep.members import Members

FIGURES = ("epoch", "train_loss", "test_accuracy")
FOLDER = ("--data", "folder", "--root", "in", "--epochs", 3, "--batch-size", 5)
GRID = ("--lr", "0.003,0.03", "--momentum", "0,0.9", "--seeds", 2)


def figures(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(record[name] for name in FIGURES) for record in records]


def alone(out: Path, config: TrainingConfig) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The checkpoint and the records of `lenet-ext train` with these settings."""
    with pytest.MonkeyPatch.context() as patch:  # pictures take most of the time
        patch.setattr("lenet_ext.training.session.write_pictures", lambda *arguments: None)
        run = train_in_folder(out, asdict(config), False, Silent())
    return load_file(out / "checkpoint.safetensors"), run.history


def check_members(tmp_path: Path, **options: Any) -> None:
    """All weights, buffers, states of the optimizer and figures of all members, bit for bit."""
    sweep = new_sweep(options)
    first, configs = sweep.first, sweep.members()
    dataset = load_dataset(first.data, Path(first.root), first.image_size)
    own = None if first.model is None else OwnNetwork.read(first.model)
    members = Members(configs, dataset, own)
    epochs = [members.one_epoch(epoch + 1, lambda steps: None) for epoch in range(first.epochs)]
    stacked = state_tensors("fused", members.fused, members.optimizer)
    for number, config in enumerate(configs):
        wanted, history = alone(tmp_path / str(number), config)
        assert figures([records[number] for records in epochs]) == figures(history)
        found = {name: tensor[number] for name, tensor in stacked.items()}
        if config.optimizer == "sgd" and config.momentum == 0:
            found = {name: tensor for name, tensor in found.items() if "momentum_buffer" not in name}
        assert equal(found, wanted), config


def test_members_of_a_lenet(tmp_path: Path) -> None:
    """On digits, whose last batch is smaller; the rate changes at every step."""
    options = {"lr": "0.003,0.06", "momentum": "0,0.9", "weight_decay": "0,0.01", "epochs": 2}
    check_members(tmp_path, **options, seed=3, batch_size=64)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "lists"),
    [
        ("sgd", "constant", {"lr": "0.01,0.03", "momentum": "0,0.9"}),
        ("adam", "step", {"weight_decay": "0,0.01", "augment": True}),
        ("adamw", "linear", {"lr": "0.003,0.01", "weight_decay": "0.01"}),
    ],
)
def test_members_of_a_network_with_dropout_and_batch_norm(
    tmp_path: Path, optimizer: str, schedule: str, lists: dict[str, Any]
) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    check_members(
        tmp_path,
        model=f"{tmp_path}/net.py:Net",
        data="folder",
        root=str(write_image_folders(tmp_path / "data")),
        seeds=2,
        epochs=3,
        batch_size=5,
        optimizer=optimizer,
        schedule=schedule,
        label_smoothing=0.1,
        **lists,
    )


@pytest.fixture
def swept(program: Program) -> Path:
    write_image_folders(Path("in"))
    result = program("sweep", *FOLDER, *GRID, "--out", "whole")
    assert result.code == 0, result.err
    return Path("whole")


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "sweep.jsonl").read_text().splitlines()]


def test_files(program: Program, swept: Path) -> None:
    """What a sweep leaves behind is what single runs leave."""
    assert set(files_in(swept)) == {
        *("best.safetensors", "chunks/00000.safetensors", "curves.png", "heatmap.png", "sweep.json"),
        "sweep.jsonl",
    }
    lines = lines_of(swept)
    assert len(lines) == 8 * 3
    assert [line["final"] for line in lines] == [False, False, True] * 8
    finals = [line for line in lines if line["final"]]
    settings = [(line["lr"], line["momentum"], line["weight_decay"], line["seed"]) for line in finals]
    assert settings == [(lr, m, 0.0, s) for lr in (0.003, 0.03) for m in (0.0, 0.9) for s in (0, 1)]
    best = finals[best_of([[line] for line in finals], {}) or 0]
    options = [f"--{name.replace('_', '-')}={best[name]}" for name in ("lr", "momentum", "seed")]
    assert program("train", *FOLDER, *options, "--no-compare", "--out", "alone").code == 0
    assert equal(load_file(swept / "best.safetensors"), load_file("alone/checkpoint.safetensors"))
    ours, theirs = (
        load_checkpoint(path).metadata
        for path in (swept / "best.safetensors", Path("alone/checkpoint.safetensors"))
    )
    assert figures(ours.history) == figures(theirs.history)
    assert figures([line for line in lines if line["member"] == best["member"]]) == figures(ours.history)
    for name in ("config", "class_names", "mean", "std", "network", "data_sha256", "epoch", "step", "frozen"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.frozen is not None


def test_best_checkpoint_predicts(program: Program, swept: Path) -> None:
    result = program("predict", "--checkpoint", swept / "best.safetensors", "in/test/dog/0.png")
    assert result.code == 0, result.err
    assert result.out.split()[2] == "in/test/dog/0.png"


def without_times(out: Path) -> list[dict[str, Any]]:
    times = ("seconds", "images_per_second")
    return [{name: value for name, value in line.items() if name not in times} for line in lines_of(out)]


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_do_not_matter(program: Program, swept: Path, chunk: int) -> None:
    result = program("sweep", *FOLDER, *GRID, "--chunk", chunk, "--out", "cut")
    assert result.code == 0, result.err
    assert f"8 networks in {-(-8 // chunk)} chunks" in result.out
    assert without_times(Path("cut")) == without_times(swept)
    assert equal(load_file("cut/best.safetensors"), load_file(swept / "best.safetensors"))


# Runs the program and kills it before or after it renames the file with that number.
KILLED = """
import os, signal, sys
where, count = sys.argv.pop(1), int(sys.argv.pop(1))
rename = os.replace
def killing(source, target):
    global count
    count -= 1
    if count == 0 and where == "before": os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
    if count == 0: os.kill(os.getpid(), signal.SIGKILL)
os.replace = killing
from lenet_ext.cli import main
main()
"""


def test_killed_sweep_resumes_to_the_same_bits(program: Program, swept: Path) -> None:
    """A chunk writes two files an epoch, and one more at its end: SIGKILL around each kind of them."""
    write = ("sweep", *map(str, (*FOLDER, *GRID)), "--chunk", "5", "--out", "killed", "--resume=auto")
    # Each start writes sweep.json and sweep.jsonl, and best.safetensors if there is one.
    kills = [
        ("after", 3),  # the first epoch of the first chunk
        ("before", 6),  # the checkpoint of its best member; the chunk itself is finished
        ("after", 4),  # the first epoch of the second chunk
    ]
    for where, count in kills:
        killed = python("-c", KILLED, where, str(count), *write, cwd=Path.cwd())
        assert killed.returncode == -9, killed.stderr
    chunks = sorted(path.name for path in Path("killed/chunks").iterdir() if path.suffix == ".safetensors")
    assert chunks == ["00000.safetensors", "00001.safetensors"]
    result = program("sweep", "--resume", "--out", "killed")
    assert result.code == 0, result.err
    assert without_times(Path("killed")) == without_times(swept)
    assert equal(load_file("killed/best.safetensors"), load_file(swept / "best.safetensors"))
    names = set(files_in(swept)) | {"chunks/00001.safetensors"}
    assert {name for name in files_in(Path("killed")) if not name.endswith(".tmp")} == names
    before = files_in(Path("killed"))
    assert program("sweep", "--resume", "--out", "killed").code == 0  # with nothing left to do
    assert files_in(Path("killed")) == before


def test_a_member_that_diverges_disturbs_no_other(program: Program, swept: Path) -> None:
    lists = ("--lr", "0.003,1e30,0.03", "--momentum", "0,0.9", "--seeds", 2)
    result = program("sweep", *FOLDER, *lists, "--out", "steep")
    assert result.code == 0, result.err
    assert "2 of 2" in result.out
    lines = lines_of(Path("steep"))
    steep = [line for line in lines if line["lr"] == 1e30]
    assert all(line["final"] and "diverged" in line and line["epoch"] == 1 for line in steep)
    others = [figures([line]) for line in lines if line["lr"] != 1e30]
    assert others == [figures([line]) for line in lines_of(swept)]
    assert equal(load_file("steep/best.safetensors"), load_file(swept / "best.safetensors"))


def test_all_members_diverge(program: Program) -> None:
    write_image_folders(Path("in"))
    result = program("sweep", *FOLDER, "--lr", "1e30", "--out", "steep")
    assert result.code == 2
    wanted = "all 1 networks diverged (steep/sweep.jsonl says when); use a smaller --lr"
    assert result.err == f"lenet-ext: error: {wanted}\n"
    assert len(lines_of(Path("steep"))) == 1
    assert not Path("steep/best.safetensors").exists()
