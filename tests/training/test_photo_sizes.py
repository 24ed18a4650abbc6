"""Photos of any size: `--image-size`, what is refused without it, and how much memory a run needs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from png_files import GRAY, write_png
from training_helpers import (
    Program,
    files_in,
    random_pixels,
    write_checkpoint,
    write_image,
    write_image_folders,
)

from lenet_ext.training.checkpoint import load_checkpoint
from lenet_ext.training.config import TrainingConfig
from lenet_ext.training.data import Normalization, load_dataset
from lenet_ext.training.dataset import Outline
from lenet_ext.training.errors import InputError
from lenet_ext.training.images import read_pixels
from lenet_ext.training.memory import GIB, available_memory
from lenet_ext.training.needs import check_memory, needed_bytes

FOLDER = ("train", "--data", "folder", "--root", "folder", "--epochs", 2, "--no-compare", "--out", "out")


@pytest.fixture
def photos(program: Program) -> Path:
    """`folder`, in which each image has a size of its own."""
    for number, path in enumerate(sorted(write_image_folders(Path("folder")).rglob("*.png"))):
        write_image(path, random_pixels(number, 20 + number, 40 - number, 3))
    return Path("folder")


def test_image_size_resizes_and_crops(program: Program, photos: Path) -> None:
    dataset = load_dataset("folder", photos, 24)
    assert dataset.train.images.shape == (12, 3, 24, 24)
    expected = read_pixels(photos / "test/dog/1.png", 3, 24)
    assert np.array_equal(dataset.test.images[4].numpy(), expected)
    assert program(*FOLDER, "--image-size", 24).code == 0
    metadata = load_checkpoint(Path("out/checkpoint.safetensors")).metadata
    assert metadata.config["image_size"] == metadata.network["image_size"] == 24


def test_resuming_keeps_the_image_size(program: Program, photos: Path) -> None:
    assert program(*FOLDER, "--image-size", 24).code == 0
    before = files_in(Path("out"))["checkpoint.safetensors"]
    assert program("train", "--resume", "--out", "out").code == 0
    assert files_in(Path("out"))["checkpoint.safetensors"] == before
    message = program.error("train", "--resume", "--out", "out", "--image-size", 32)
    assert message.startswith("--image-size 32: the run to resume was started with ")


def test_resuming_a_run_without_image_size(program: Program, trained: Path) -> None:
    message = program.error("train", "--resume", "--out", trained, "--image-size", 16)
    assert message.startswith("--image-size 16: the run to resume was started with")


def test_resuming_a_run_of_a_version_without_image_size(program: Program, trained: Path) -> None:
    """A setting that a checkpoint lacks has its default."""
    path = trained / "checkpoint.safetensors"
    before, checkpoint = path.read_bytes(), load_checkpoint(path)
    metadata = asdict(checkpoint.metadata)
    del metadata["config"]["image_size"]
    write_checkpoint(path, metadata, checkpoint.tensors)
    message = program.error("train", "--resume", "--out", trained, "--image-size", 16)
    assert message.startswith("--image-size 16: the run to resume was started with no --image-size; leave")
    assert program("train", "--resume", "--out", trained).code == 0
    assert path.read_bytes() == before


def test_predicting_fits_as_training_does(program: Program, photos: Path) -> None:
    """The two halves of a picture and its middle are told apart only if the middle is what is seen."""
    for split in ("train", "test"):
        for shade, name in ((40, "cat"), (200, "dog")):
            for path in (photos / split / name).iterdir():
                middle = random_pixels(0, 30, 30, 3) // 8 + shade
                write_image(
                    path, np.pad(middle, ((0, 0), (30, 30), (0, 0)), constant_values=120).astype(np.uint8)
                )
    options = (*FOLDER[:6], 10, "--batch-size", 3, *FOLDER[7:], "--image-size", 16)
    assert program(*options).code == 0
    result = program(
        "predict",
        "--checkpoint",
        "out/checkpoint.safetensors",
        photos / "test/cat/0.png",
        photos / "test/dog/0.png",
    )
    assert [line.split()[0] for line in result.out.splitlines()] == ["cat", "dog"]


def test_sizes_that_differ_are_counted(program: Program) -> None:
    write_image_folders(Path("folder"))
    for number in (1, 2):
        write_image(Path(f"folder/train/dog/{number}.png"), random_pixels(0, 12, 40, 3))
    assert program.error(*FOLDER) == (
        "folder: 2 of 18 images are not 16x16, the most frequent size: folder/train/dog/1.png is 40x12; "
        "--image-size N resizes and crops all of them to NxN"
    )
    assert not Path("out").exists()


def test_sizes_are_compared_before_anything_is_decoded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(InputError, match=r"--image-size N resizes"):
        load_dataset("folder", photos)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "folder", "--image-size", 15), "--image-size 15: wanted 16 to 32768 pixels"),
        (("--data", "folder", "--image-size", 10**30), "--image-size"),
        (("--data", "digits", "--image-size", 32), "--image-size 32: wanted --data folder with it"),
    ],
)
def test_wrong_image_size(program: Program, options: tuple[object, ...], message: str) -> None:
    assert message in program.error("train", *options)


# --- memory


def test_memory_that_there_is_not(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by the headers alone: these files hold no whole image."""
    write_image_folders(Path("folder"))
    for path in Path("folder").rglob("*.png"):
        path.write_bytes(write_png(path, 1200, 1200, 8, GRAY).read_bytes()[:100])
    monkeypatch.setattr("lenet_ext.training.memory.available_memory", lambda: 2 * GIB)
    message = program.error(*FOLDER)
    assert message.startswith("folder: training on 18 images of 1200x1200 needs about 4.")
    assert message.endswith(" GiB of memory, but 2.0 GiB are available; a smaller --image-size takes less")
    assert not Path("out").exists()


def test_memory_above_one_gib_is_told() -> None:
    config = TrainingConfig(data="folder", compare=False)
    text = check_memory(Outline("photos", 8, 2, ["a", "b"], 3, 600), config)
    assert text == (
        "photos: training on 10 images of 600x600 needs about 1.1 GiB of memory, and 0.3 GiB for a checkpoint"
    )
    assert check_memory(Outline("photos", 8, 2, ["a", "b"], 3, 400), config) is None


def test_needed_memory_by_hand() -> None:
    """The LeNet on 600x600: conv1 leaves 6 of 596x596, and fc1 takes 16 of 147x147."""
    fc1 = 4 * 120 * 16 * 147**2
    outline = Outline("photos", 8, 2, ["a", "b"], 3, 600)
    needed, checkpoint = needed_bytes(outline, TrainingConfig(data="folder", compare=False))
    assert checkpoint == pytest.approx(2 * fc1, rel=0.01)
    assert needed == pytest.approx(10 * 3 * 600**2 + (3 + 4) * fc1, rel=0.01)
    needed, _ = needed_bytes(
        Outline("photos", 640, 2, ["a", "b"], 3, 600), TrainingConfig(engine="torch", compare=False)
    )
    activations = 4 * 6 * 596**2
    assert needed == pytest.approx(642 * 3 * 600**2 + 3 * fc1 + 64 * 5 * activations, rel=0.01)


def _machine(root: Path, group: str, files: dict[str, str]) -> Path:
    meminfo = "MemTotal:  9000000 kB\nMemAvailable:    8000 kB\n"
    for name, text in {"proc/meminfo": meminfo, "proc/self/cgroup": group, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_available_memory(tmp_path: Path) -> None:
    """Of the machine, and of the control group or the one above it, in versions 2 and 1."""
    assert available_memory(tmp_path / "nothing") is None
    assert available_memory(_machine(tmp_path / "none", "0::/\n", {})) == 8000 * 1024
    group = {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "5\n"}
    assert available_memory(_machine(tmp_path / "max", "0::/a/b\n", group)) == 8000 * 1024
    group |= {
        "sys/fs/cgroup/a/memory.max": "1000000\n",
        "sys/fs/cgroup/a/memory.current": "700000\n",
        "sys/fs/cgroup/a/memory.stat": "anon 600000\ninactive_file 50000\n",
    }
    assert available_memory(_machine(tmp_path / "v2", "0::/a/b\n", group)) == 350000
    top = "sys/fs/cgroup/memory/memory"
    group = {f"{top}.limit_in_bytes": "2000\n", f"{top}.usage_in_bytes": "3000\n"}
    assert available_memory(_machine(tmp_path / "v1", "5:cpu,memory:/outside\n0::/\n", group)) == 0


def test_statistics_copy_a_part_at_a_time() -> None:
    """More images than are copied at a time: as those of all at once."""
    import torch

    images = torch.from_numpy(random_pixels(0, 1201, 2, 3, 5))
    normalize = Normalization.of(images)
    assert normalize.mean == pytest.approx(images.double().mean(dim=(0, 2, 3)).tolist())
