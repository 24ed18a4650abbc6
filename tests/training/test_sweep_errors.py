"""What a sweep refuses, in one line each, and how it ends."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from safetensors.torch import load_file, save_file
from test_own_network import NETWORK
from training_helpers import Program, files_in, write_image_folders

from lenet_ext.commands import app
from lenet_ext.commands.stopping import Stopped
from lenet_ext.training.dataset import Outline
from lenet_ext.training.memory import GIB
from lenet_ext.training.needs import members_that_fit
from lenet_ext.training.sealed import read_sealed, sealed
from lenet_ext.training.sweep.chunk import FORMAT, HEADER_ENTRY, KIND
from lenet_ext.training.sweep.config import new_sweep

pytest.importorskip("pty", reason="a terminal of one's own needs POSIX")
from terminal import Terminal

SWEEP = ("sweep", "--data", "folder", "--root", "in", "--epochs", 2, "--batch-size", 4)


@pytest.fixture
def images(program: Program) -> Path:
    return write_image_folders(Path("in"))


@pytest.fixture
def swept(program: Program, images: Path) -> Path:
    assert program(*SWEEP, "--lr", "0.01,0.03", "--seeds", 2, "--chunk", 3, "--out", "out").code == 0
    return Path("out")


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--lr 0.01,,0.1", "--lr 0.01,,0.1: wanted numbers with commas between them, as in 0.01,0.03"),
        ("--lr fast", "--lr fast: wanted numbers with commas between them, as in 0.01,0.03"),
        ("--momentum=", "--momentum : wanted numbers with commas between them, as in 0.01,0.03"),
        ("--lr 0.1,0.10", "--lr 0.1,0.10: 0.1 is there twice"),
        ("--lr 0.1,-1", "--lr -1.0: wanted a positive number, 1.2e-38 to 3.4e+38"),
        ("--lr 0.1,nan", "--lr nan: wanted a positive number, 1.2e-38 to 3.4e+38"),
        ("--momentum 0,1", "--momentum 1.0: wanted at least 0 and less than 1"),
        ("--weight-decay 0,inf", "--weight-decay inf: wanted at least 0, at most 3.4e+38"),
        ("--seeds 0", "--seeds 0: wanted 1 to 100000"),
        (
            "--seeds 60000 --lr 0.1,0.2",
            "--seeds 60000: makes 120,000 networks with 2 combinations of the other options, wanted at most "
            "100,000",
        ),
        (f"--seeds 2 --seed {2**63 - 1}", f"--seed {2**63}: wanted 0 to 2**63 - 1"),
        ("--chunk 0", "--chunk 0: wanted at least 1"),
        ("--optimizer adam --momentum 0.9", "--momentum 0.9: --optimizer adam has none; leave it out"),
        ("--optimizer lion", "--optimizer lion: wanted one of sgd, adam, adamw"),
        ("--schedule never", "--schedule never: wanted one of cosine, linear, step, constant"),
        ("--engine torch", "No such option: --engine (see lenet-ext sweep --help)"),
        ("--device cuda", "No such option: --device (see lenet-ext sweep --help)"),
        ("--compare", "No such option: --compare (see lenet-ext sweep --help)"),
        ("--root gone", "gone/train: not found; --data folder wants train/<class>/* and test/<class>/*"),
        ("--trust-model", "--trust-model: is for --resume of a sweep of a network of your own"),
        ("--resume=never", "--resume=never: wanted --resume or --resume=auto"),
        (
            "--resume",
            "--resume: out holds no sweep.json to go on from; name the sweep's folder by --out, or use "
            "--resume=auto, which starts a sweep where there is none",
        ),
    ],
)
def test_refusals(program: Program, options: str, message: str) -> None:
    found = program.error(*SWEEP, *options.split(), "--out", "out")
    if "gone" in options:  # the reader's own words
        assert found.startswith("gone")
    else:
        assert found == message
    assert not Path("out").exists()


def test_unknown_data(program: Program) -> None:
    message = program.error("sweep", "--data", "imagenet", "--out", "out")
    assert message == "--data imagenet: wanted one of digits, mnist, fashion-mnist, cifar10, folder"


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("name", ["Recurrent", "by_seed"])
def test_networks_that_cannot_be_swept(program: Program, name: str) -> None:
    """One that the engine does not have, and one whose seed decides on its layers."""
    by_seed = (
        "import torch\n"
        "def by_seed(in_channels, num_classes):\n"
        "    width = int(torch.randint(1, 10000, ()))\n"
        "    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, width))\n"
        "    return nn.Sequential(pool, nn.Linear(width, num_classes))\n"
    )
    Path("net.py").write_text(NETWORK + by_seed)
    message = program.error(*SWEEP, "--model", f"net.py:{name}", "--seeds", 3, "--out", "out")
    if name == "Recurrent":
        wanted = 'sweep trains in the fused engine: fuse: layer "rnn" (GRU) is recurrent'
    else:
        wanted = "cannot be swept: fuse_ensemble: model 1 is not of the architecture of model 0: "
    assert message.startswith(f"--model net.py:{name}: {wanted}")


def test_a_folder_that_is_taken(program: Program, swept: Path) -> None:
    before = files_in(swept)
    message = program.error(*SWEEP, "--lr", "0.1", "--out", swept)
    assert message == "out/sweep.json: exists already; use --resume to go on, or another --out"
    assert files_in(swept) == before
    Path("other").mkdir()
    Path("other/curves.png").write_bytes(b"mine")
    message = program.error(*SWEEP, "--out", "other")
    assert message == "other/curves.png: exists already, without a sweep; use another --out"
    assert files_in(Path("other")) == {"curves.png": b"mine"}


@pytest.mark.parametrize(
    ("options", "given", "stored"),
    [
        ("--lr 0.01", "--lr 0.01", "--lr 0.01,0.03"),
        ("--momentum 0.5", "--momentum 0.5", "--momentum 0.9"),
        ("--seeds 3", "--seeds 3", "--seeds 2"),
        ("--epochs 3", "--epochs 3", "--epochs 2"),
        ("--chunk 2", "--chunk 2", "--chunk 3"),
        ("--augment", "--augment", "--no-augment"),
    ],
)
def test_other_options_than_the_sweep_to_resume(
    program: Program, swept: Path, options: str, given: str, stored: str
) -> None:
    before = files_in(swept)
    message = program.error("sweep", "--resume", "--out", swept, *options.split())
    assert message == (
        f"{given}: the sweep to resume was started with {stored}; leave {given.split()[0]} out, or start a "
        "new sweep with another --out"
    )
    assert files_in(swept) == before
    same = ("--lr", "0.010,3e-2", "--seeds", 2, "--chunk", 3)
    assert program("sweep", "--resume", "--out", swept, *same).code == 0


def test_moved_data_may_go_on_and_changed_data_may_not(program: Program, swept: Path) -> None:
    Path("in").rename("moved")
    assert program("sweep", "--resume", "--out", swept, "--root", "moved").code == 0
    Path("moved/train/cat/0.png").write_bytes(Path("moved/train/cat/1.png").read_bytes())
    message = program.error("sweep", "--resume", "--out", swept)
    wanted = "the sweep to resume was trained on other data than folder in moved holds now"
    assert message == f"out/sweep.json: {wanted}"


def test_damaged_files(program: Program, swept: Path) -> None:
    resume = ("sweep", "--resume", "--out", swept)
    chunk, settings = swept / "chunks/00001.safetensors", swept / "sweep.json"
    content = chunk.read_bytes()
    again = "; delete it to train its networks again"
    chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    wanted = "corrupt: the content does not match its SHA-256 checksum"
    assert program.error(*resume) == f"{chunk}: {wanted}{again}"
    shutil.copy(swept / "best.safetensors", chunk)
    wanted = "a safetensors file, but not a chunk of a sweep of lenet-ext"
    assert program.error(*resume) == f"{chunk}: {wanted}{again}"
    save_file(load_file(swept / "best.safetensors"), chunk)
    assert program.error(*resume).endswith(again)
    other = (*SWEEP, "--lr", "0.01,0.03", "--seed", 1, "--seeds", 2, "--chunk", 3, "--out", "o")
    assert program(*other).code == 0
    shutil.copy("o/chunks/00001.safetensors", chunk)
    assert program.error(*resume) == f"{chunk}: belongs to another sweep{again}"
    chunk.unlink()
    assert program(*resume).code == 0
    assert load_file(chunk).keys() == load_file("o/chunks/00001.safetensors").keys()
    message = program.error("predict", "--checkpoint", chunk, "in/test/dog/0.png")
    assert message == f"{chunk}: a safetensors file, but not a checkpoint of lenet-ext"
    stored = json.loads(settings.read_text())
    for change, wanted in (
        ({"format": 2}, "format 2, this version reads format 1"),
        ({"chunk": 0}, "not the settings of a sweep: chunk must be at least 1"),
        ({"options": {}}, "not the settings of a sweep: an option is missing"),
        ({"options": {**stored["options"], "lr": "x"}}, None),
        ({"options": {**stored["options"], "speed": 1}}, None),
        ({"own_network": {}}, None),
    ):
        settings.write_text(json.dumps({**stored, **change}))
        message = program.error(*resume)
        assert message == f"out/sweep.json: {wanted}" if wanted else message.startswith("out/sweep.json: ")
    settings.write_text("{")
    assert program.error(*resume).startswith("out/sweep.json: damaged: ")


def test_descriptions_in_chunks(program: Program, swept: Path) -> None:
    """Older files have none."""
    resume = ("sweep", "--resume", "--out", swept)
    for chunk in (swept / "chunks").iterdir():
        file = read_sealed(chunk, HEADER_ENTRY, KIND, FORMAT)
        entry = {name: value for name, value in file.entry.items() if name != "frozen"}
        chunk.write_bytes(sealed(HEADER_ENTRY, entry, file.tensors()))
    assert program(*resume).code == 0
    assert program("predict", "--checkpoint", swept / "best.safetensors", "in/test/dog/0.png").code == 0
    chunk.write_bytes(sealed(HEADER_ENTRY, {**entry, "frozen": 3}, file.tensors()))
    assert "no sweep writes such a description" in program.error(*resume)


@pytest.mark.usefixtures("images")
def test_own_networks_are_not_run_unseen(program: Program) -> None:
    Path("net.py").write_text(NETWORK)
    assert program(*SWEEP, "--model", "net.py:Net", "--seeds", 2, "--out", "out").code == 0
    resume = ("sweep", "--resume", "--out", "out")
    message = program.error(*resume)
    assert message.startswith("out/sweep.json: its network is a program, net.py:Net: give --model")
    assert program(*resume, "--trust-model").code == 0
    assert program(*resume, "--model", "net.py:Net").code == 0
    predict = ("predict", "--checkpoint", "out/best.safetensors", "in/test/dog/0.png")
    assert program(*predict, "--model", "net.py:Net").code == 0
    Path("net.py").write_text(NETWORK + "\n")
    assert "with SHA-256" in program.error(*resume, "--model", "net.py:Net")


def test_without_ray(program: Program, monkeypatch: pytest.MonkeyPatch, images: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for ray in (["--ray"], ["--ray", "127.0.0.1:6379"]):
        message = program.error(*SWEEP, *ray, "--out", "out")
        assert message.startswith("this command needs the package ray (")
        assert message.endswith("): pip install 'lenet_ext[sweep]'")
        assert not Path("out").exists()


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("--ray", ""),
        ("--ray --seeds 2", ""),
        ("--ray 10.0.0.1:6379 --seeds 2", "10.0.0.1:6379"),
        ("--ray=auto", "auto"),
        ("--seeds 2", None),
    ],
)
def test_addresses(monkeypatch: pytest.MonkeyPatch, typed: str, address: str | None) -> None:
    """And what is said of a sweep that was stopped."""
    found = {}

    def stop(*arguments: object, **options: object) -> NoReturn:
        found.update(options)
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("lenet_ext.training.sweep.session.sweep_in_folder", stop)
    with pytest.raises(Stopped):
        app.run(["sweep", *typed.split()])
    assert found["ray"] == address


def test_stopped_says_how_to_go_on(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> NoReturn:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("lenet_ext.training.sweep.session.sweep_in_folder", stop)
    result = program("sweep", "--out", "run", "--model", "net.py:Net", "--ray")
    assert result.code == 128 + signal.SIGTERM
    wanted = "lenet-ext sweep --resume --out run --model net.py:Net --ray goes on from what is done"
    assert result.err == f"lenet-ext: stopped by SIGTERM; {wanted}\n"


def test_chunks_are_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    config = new_sweep({}).first
    outline = Outline("digits", 1433, 364, [str(digit) for digit in range(10)], 1, 32, loaded=True)
    counts = []
    for available in (0, GIB, 2 * GIB, None):
        monkeypatch.setattr("lenet_ext.training.needs.available_memory", lambda size=available: size)
        counts.append(members_that_fit(outline, config))
    none, one, two, unseen = counts
    assert (none, unseen) == (1, 100)
    weights = 4 * 61_000  # bytes; each member has seven copies
    assert one == pytest.approx(GIB / 2 / (7 * weights), rel=0.05)
    assert two == pytest.approx(2 * one, rel=0.05)


@pytest.mark.usefixtures("no_signal_is_ignored")
def test_live_table(tmp_path: Path) -> None:
    """In a terminal, which is left in order by a signal; no cursor was hidden."""
    sweep = ("sweep", "--lr", "0.01,0.03", "--epochs", "1000", "--out", tmp_path / "out")
    terminal = Terminal("-m", "lenet_ext", *sweep, columns=100)
    terminal.read_until("0.03")
    terminal.read_until("epoch 3")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert terminal.screen.count("\x1b[?25l") == 0
    last_line = terminal.screen.rstrip().splitlines()[-1]
    assert "lenet-ext: stopped by SIGINT; lenet-ext sweep --resume --out " in last_line
    assert len((tmp_path / "out/sweep.jsonl").read_text().splitlines()) >= 4


@pytest.mark.parametrize("columns", [20, 45, 80])
def test_narrow_terminals(program: Program, swept: Path, columns: int) -> None:
    """Nothing of the table at the end is cut."""
    program.monkeypatch.setenv("COLUMNS", str(columns))
    result = program("sweep", "--resume", "--out", swept)
    assert result.code == 0
    assert "…" not in result.out
    assert "best: lr " in result.out
