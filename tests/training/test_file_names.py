"""Names that are no plain text, files that are none, and what lies about in folders."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import python
from training_helpers import (
    Program,
    random_pixels,
    write_cifar10,
    write_image,
    write_image_folders,
    write_mnist,
    write_pickle,
)

from lenet_ext.training.data import load_dataset
from lenet_ext.training.errors import InputError, printable

FOLDER = ("train", "--data", "folder", "--root", "folder", "--epochs", 1, "--no-compare", "--out", "out")
ESCAPE = "\x1b[2J\nlenet-ext: error: forged"
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_printable() -> None:
    assert printable("a b\u00a0\u200d\\\u00e9") == "a b\u00a0\u200d\\\u00e9"
    assert printable("\x1b\n\x9b\u2028\udce9") == r"\x1b\n\x9b\u2028\udce9"


# --- classes


def _rename(split: str, name: str, other: str) -> None:
    Path("folder", split, name).rename(Path("folder", split, other))


@pytest.mark.parametrize(
    ("train", "test"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), ("cat ", "cat"), ("cat", "cat ")]
)
def test_a_class_is_the_same_in_other_spellings(program: Program, train: str, test: str) -> None:
    write_image_folders(Path("folder"))
    _rename("train", "cat", train)
    _rename("test", "cat", test)
    dataset = load_dataset("folder", Path("folder"))
    assert dataset.class_names == [COMPOSED if train.startswith("caf") else "cat", "dog"]


@pytest.mark.parametrize("other", [("caf\u00e9", "cafe\u0301"), ("cat", "cat "), ("cat", " cat")])
def test_two_folders_of_a_class(program: Program, other: tuple[str, str]) -> None:
    write_image_folders(Path("folder"), classes=[*other, "dog"])
    first, second = sorted(other)
    message = program.error(*FOLDER)
    assert message.startswith(f"'folder/train/{second}' and 'folder/train/{first}' are the same class: ")


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), ESCAPE, " ", "a\u2028b"])
def test_class_names_that_cannot_be_shown(program: Program, name: str) -> None:
    """Before anything is decoded: the folders of this class hold no image."""
    write_image_folders(Path("folder"))
    for split in ("train", "test"):
        Path("folder", split, name).mkdir()
    message = program.error(*FOLDER)
    assert (
        message == f"folder/train/{printable(name)}: wanted a class name in UTF-8, without control characters"
    )


def test_class_names_of_cifar10(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    names = [f"class {number}".encode() for number in range(9)]
    write_pickle(folder / "batches.meta", {b"label_names": [*names, ESCAPE.encode()]})
    with pytest.raises(InputError, match=r"batches\.meta: wanted a class name in UTF-8"):
        load_dataset("cifar10", tmp_path)


def test_classes_that_differ_are_all_named(program: Program) -> None:
    write_image_folders(Path("folder"), classes=("cat", "dog", "eel"))
    _rename("test", "cat", "Cat")
    _rename("test", "eel", "snake")
    lines = program("train", *FOLDER[1:]).err.splitlines()
    assert lines == [
        "lenet-ext: error: folder: the classes of train and test differ:",
        "lenet-ext: error: folder/train/Cat: no such class folder, but folder/test has one",
        "lenet-ext: error: folder/test/cat: no such class folder, but folder/train has one",
        "lenet-ext: error: folder/test/eel: no such class folder, but folder/train has one",
        "lenet-ext: error: folder/train/snake: no such class folder, but folder/test has one",
    ]


# --- files


def test_files_of_any_name_are_read(program: Program, trained: Path) -> None:
    write_image_folders(Path("folder"))
    for name in (os.fsdecode(b"\xff\xfe.png"), f"{ESCAPE}.png", "blank at the end.png "):
        Path("folder/train/cat/0.png").rename(Path("folder/train/cat", name))
        write_image(Path("folder/train/cat/0.png"), random_pixels(0, 16, 16, 3))
    assert program(*FOLDER).code == 0
    names = sorted(Path("folder/train/cat").iterdir())
    result = program("predict", "--checkpoint", trained / "checkpoint.safetensors", *names)
    assert (result.code, result.err) == (0, "")
    assert [line.split(maxsplit=2)[2] for line in result.out.split("\n")[:-1]] == [
        printable(str(path)) for path in names
    ]
    assert "\x1b" not in result.out


@pytest.mark.parametrize("name", [os.fsdecode(b"\xff\xfe.png"), f"{ESCAPE}.png"])
def test_errors_show_any_name(program: Program, name: str) -> None:
    write_image_folders(Path("folder"))
    Path("folder/train/cat", name).write_bytes(b"no image")
    assert program.error(*FOLDER).startswith(
        f"folder/train/cat/{printable(name)}: cannot be read as an image"
    )


def test_all_bad_files_are_named_at_once(program: Program) -> None:
    """Those without a header of an image and those that end early, in the order of the files."""
    write_image_folders(Path("folder"))
    damaged = Path("folder/test/dog/2.png")
    damaged.write_bytes(damaged.read_bytes()[:-200])
    Path("folder/train/cat/1.png").write_text("hello")
    result = program(*FOLDER)
    assert result.code == 2
    first, second, third = result.err.splitlines()
    assert first == "lenet-ext: error: folder: 2 of 18 files cannot be used:"
    assert second.startswith(
        "lenet-ext: error: folder/train/cat/1.png: cannot be read as an image: not BMP, "
    )
    assert third.startswith("lenet-ext: error: folder/test/dog/2.png: cannot be read as an image: ")


def test_only_the_first_twenty_bad_files_are_named(program: Program) -> None:
    write_image_folders(Path("folder"))
    for number in range(25):
        Path(f"folder/train/cat/x{number:02}.txt").touch()
    lines = program(*FOLDER).err.splitlines()
    assert len(lines) == 22
    assert "x19.txt" in lines[20]
    assert lines[21] == "lenet-ext: error: and 5 more"


def test_predict_answers_for_the_good_ones(program: Program, trained: Path) -> None:
    good, other = Path("data/test/cat/0.png"), Path("data/test/dog/0.png")
    Path("notes.txt").write_text("hello")
    arguments = ("missing.png", good, "notes.txt", other, "data")
    result = program("predict", "--checkpoint", trained / "checkpoint.safetensors", *arguments)
    assert result.code == 2
    assert [line.split(maxsplit=2)[::2] for line in result.out.splitlines()] == [
        ["cat", str(good)],
        ["dog", str(other)],
    ]
    errors = result.err.splitlines()
    assert errors[0] == "lenet-ext: error: missing.png: no such file"
    assert errors[1].startswith("lenet-ext: error: notes.txt: cannot be read as an image: not ")
    assert errors[2:] == ["lenet-ext: error: data: a folder, wanted a regular file"]


def test_predict_of_more_images_than_go_through_at_once(program: Program, trained: Path) -> None:
    images = sorted(Path("data").rglob("*.png")) * 4
    result = program("predict", "--checkpoint", trained / "checkpoint.safetensors", *images)
    answers = [line.split(maxsplit=2)[::2] for line in result.out.splitlines()]
    assert answers == [[path.parent.name, str(path)] for path in images]


def test_predict_where_standard_output_lacks_letters(trained: Path) -> None:
    image = Path("data/test/cat/0.png").rename("\u732b.png")
    arguments = ["predict", "--checkpoint", "run/checkpoint.safetensors", image]
    result = python("-m", "lenet_ext", *arguments, environment={"PYTHONIOENCODING": "latin-1"})
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("\\u732b.png\n")


# --- what lies about


def test_junk_is_passed_over(program: Program) -> None:
    write_image_folders(Path("folder"))
    for name in ("Thumbs.db", "THUMBS.DB", "Desktop.ini", "desktop.ini", ".DS_Store", "._0.png", "Icon\r"):
        Path("folder/train/cat", name).touch()
    for name in ("@eaDir", "__MACOSX", ".cache"):
        Path("folder/train", name).mkdir()
        Path("folder/train/cat", name).mkdir()
    result = program(*FOLDER)
    assert (result.code, result.err) == (0, "")


def test_files_beside_the_classes_are_told(program: Program) -> None:
    write_image_folders(Path("folder"))
    Path("folder/train/lost.png").touch()
    Path("folder/test/README").touch()
    result = program(*FOLDER)
    assert result.code == 0
    expected = "folder: 2 file(s) beside the class folders are not read, e.g. folder/train/lost.png"
    assert result.err == f"lenet-ext: {expected}\n"


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "FIFO": (os.mkfifo, "a FIFO"),
    "socket": (_socket, "a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "folder": (Path.mkdir, "a folder"),
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize(
    ("data", "write", "name"),
    [
        ("folder", write_image_folders, "train/cat/0.png"),
        ("mnist", write_mnist, "MNIST/raw/t10k-labels-idx1-ubyte"),
        ("cifar10", write_cifar10, "cifar-10-batches-py/test_batch"),
    ],
)
def test_what_is_no_file_is_refused_before_it_is_opened(
    tmp_path: Path, kind: str, data: str, write: Callable[[Path], Path], name: str
) -> None:
    make, text = NO_FILES[kind]
    write(tmp_path)
    path = tmp_path / name
    path.unlink()
    make(path)
    with pytest.raises(InputError) as error:
        load_dataset(data, tmp_path)
    assert str(error.value) == f"{path}: {text}, wanted a regular file"


def test_predict_of_a_fifo(program: Program, trained: Path) -> None:
    os.mkfifo("fifo")
    for checkpoint, image in ((trained / "checkpoint.safetensors", "fifo"), ("fifo", "data/test/cat/0.png")):
        message = program.error("predict", "--checkpoint", checkpoint, image)
        assert message == "fifo: a FIFO, wanted a regular file"
