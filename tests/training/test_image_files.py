"""Image files of many forms: their pixels come out right, or the file is refused by name."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from png_files import GRAY, GRAY_ALPHA, PALETTE, RGB, RGBA, write_png
from processes import python
from training_helpers import Program, random_pixels, write_image, write_image_folders

from lenet_ext.training.errors import InputError
from lenet_ext.training.images import read_header, read_pixels, strict_pillow


def _tiff(path: Path, bits: int) -> Path:
    """An uncompressed RGB TIFF of 16x16 zeros."""
    size = 16 * 16 * 3 * bits // 8
    # In order: width, height, bits (an offset), compression, RGB, the strip's offset, samples, rows, bytes.
    tags = {256: 16, 257: 16, 258: 0, 259: 1, 262: 2, 273: 0, 277: 3, 278: 16, 279: size}
    end = 8 + 2 + 12 * len(tags) + 4
    tags |= {258: end, 273: end + 6}
    entries = b"".join(
        struct.pack("<HHII", tag, 4 - (tag == 258), 1 + 2 * (tag == 258), tags[tag]) for tag in tags
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    path.write_bytes(head + struct.pack("<3H", bits, bits, bits) + bytes(size))
    return path


def _frames(path: Path) -> Path:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("white", "red"))
    first.save(path, save_all=True, append_images=[second])
    return path


def _bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


DEEP = "more than 8 bits a channel, wanted gray or colour with 8 bits a channel"
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "PNG, RGB of 16 bits": (lambda folder: write_png(folder / "a.png", 16, 16, 16, RGB), DEEP),
    "PNG, RGBA of 16 bits": (lambda folder: write_png(folder / "a.png", 16, 16, 16, RGBA), DEEP),
    "PNG, gray of 16 bits": (lambda folder: write_png(folder / "a.png", 16, 16, 16, GRAY), DEEP),
    "PNG, gray with alpha of 16 bits": (
        lambda folder: write_png(folder / "a.png", 16, 16, 16, GRAY_ALPHA),
        DEEP,
    ),
    "TIFF of 16 bits": (lambda folder: _tiff(folder / "a.tif", 16), DEEP),
    "PPM of 16 bits": (
        lambda folder: _bytes(folder / "a.ppm", b"P6 16 16 65535\n" + bytes(16 * 16 * 6)),
        DEEP,
    ),
    "PPM of 10 bits in text": (
        lambda folder: _bytes(folder / "a.ppm", b"P3 16 16 1023\n" + b"0 " * 16 * 16 * 3),
        DEEP,
    ),
    "PGM of 16 bits": (
        lambda folder: _bytes(folder / "a.pgm", b"P5 16 16 65535\n" + bytes(16 * 16 * 2)),
        "pixel mode I, wanted gray",
    ),
    "float PFM": (
        lambda folder: _bytes(folder / "a.pfm", b"Pf 16 16\n-1.0\n" + bytes(1024)),
        "pixel mode F, wanted gray",
    ),
    "animated GIF": (lambda folder: _frames(folder / "a.gif"), "several frames or pages"),
    "animated PNG": (lambda folder: _frames(folder / "a.png"), "several frames or pages"),
    "animated WebP": (lambda folder: _frames(folder / "a.webp"), "several frames or pages"),
    "TIFF of two pages": (lambda folder: _frames(folder / "a.tif"), "several frames or pages"),
    "144 megapixels": (
        lambda folder: write_png(folder / "a.png", 12000, 12000, 1, GRAY),
        "more than 89,478,485 pixels, the most it may have",
    ),
    "400 megapixels": (
        lambda folder: write_png(folder / "a.png", 20000, 20000, 1, GRAY),
        "more than 89,478,485 pixels, the most it may have",
    ),
    "empty file": (lambda folder: _bytes(folder / "a.png", b""), "a.png: an empty file"),
    "an ICO file": (lambda folder: _saved(folder / "a.ico"), "not BMP, GIF, JPEG, PNG, PPM, TIFF or WEBP"),
}


def _saved(path: Path) -> Path:
    Image.new("RGB", (16, 16)).save(path)
    return path


@pytest.mark.parametrize("form", REFUSED)
def test_refused_by_name(tmp_path: Path, form: str) -> None:
    write, message = REFUSED[form]
    path = write(tmp_path)
    for read in (read_header, lambda path: read_pixels(path, 3, None)):
        with strict_pillow(), pytest.raises(InputError) as error:
            read(path)
        assert message in str(error.value)
        assert str(error.value).startswith(f"{path}: ")


# The value of the first pixel, and whether it has a colour.
READ: dict[str, tuple[Callable[[Path], Path], list[int]]] = {
    "RGB with a transparent colour": (
        lambda folder: write_png(folder / "a.png", 16, 16, tRNS=bytes(6)),
        [255, 255, 255],
    ),
    "gray with a transparent value": (
        lambda folder: write_png(folder / "a.png", 16, 16, 8, GRAY, tRNS=bytes(2)),
        [255],
    ),
    "bilevel with a transparent value": (
        lambda folder: write_png(folder / "a.png", 16, 16, 1, GRAY, tRNS=bytes(2)),
        [255],
    ),
    "black ink on a transparent ground": (
        lambda folder: write_png(folder / "a.png", 16, 16, 8, RGBA),
        [255, 255, 255],
    ),
    "gray with alpha": (lambda folder: write_png(folder / "a.png", 16, 16, 8, GRAY_ALPHA), [255]),
    "gray palette": (
        lambda folder: write_png(folder / "a.png", 16, 16, 8, PALETTE, PLTE=bytes([7, 7, 7, 9, 9, 9])),
        [7],
    ),
    "coloured palette": (
        lambda folder: write_png(folder / "a.png", 16, 16, 8, PALETTE, PLTE=bytes([7, 7, 8, 9, 9, 9])),
        [7, 7, 8],
    ),
    "gray palette, half transparent": (
        lambda folder: write_png(
            folder / "a.png", 16, 16, 8, PALETTE, PLTE=bytes([7, 7, 7, 9, 9, 9]), tRNS=b"\x80"
        ),
        [round(7 * 128 / 255 + 127)],
    ),
    "TIFF of 8 bits": (lambda folder: _tiff(folder / "a.tif", 8), [0, 0, 0]),
    "PPM whose largest value is 100": (
        lambda folder: _bytes(folder / "a.ppm", b"P6 16 16 100\n" + bytes([50]) * 16 * 16 * 3),
        [128, 128, 128],
    ),
    "a camera's two views (MPO)": (lambda folder: _frames(folder / "a.mpo"), [255, 255, 255]),
}


@pytest.mark.parametrize("form", READ)
def test_read_right(tmp_path: Path, form: str) -> None:
    write, expected = READ[form]
    path = write(tmp_path)
    assert read_header(path).gray == (len(expected) == 1)
    pixels = read_pixels(path, len(expected), None)
    assert pixels.shape == (len(expected), 16, 16)
    assert pixels[:, 3, 4].tolist() == expected


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    pixels = random_pixels(0, 16, 16, 4)
    colours, alpha = pixels[..., :3].astype(float), pixels[..., 3:] / 255
    read = read_pixels(write_image(tmp_path / "a.png", pixels), 3, None).transpose(1, 2, 0)
    assert np.abs(read - (colours * alpha + 255 * (1 - alpha))).max() <= 1


def test_photograph_is_turned_upright(tmp_path: Path) -> None:
    pixels = random_pixels(0, 16, 16)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(read_pixels(tmp_path / "photo.png", 1, None)[0], pixels[::-1, ::-1])


def test_fitting_crops_in_the_middle(tmp_path: Path) -> None:
    """Of 64x32 pixels the middle 32x32 stay, as they are; half the size is a weighted mean (a triangle)."""
    pixels = random_pixels(0, 32, 64, 3)
    path = write_image(tmp_path / "photo.png", pixels)
    assert np.array_equal(read_pixels(path, 3, 32).transpose(1, 2, 0), pixels[:, 16:48])
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[np.newaxis], 64, axis=0)
    half = read_pixels(write_image(tmp_path / "ramp.png", ramp), 1, 32)[0]
    assert np.array_equal(half[5, 2:-2], 2 + 8 * np.arange(2, 30))


def test_ghostscript_is_never_started(tmp_path: Path) -> None:
    """A stand-in for Ghostscript would leave a file."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (programs / "gs").chmod(0o755)
    photo = _bytes(
        tmp_path / "photo.jpg",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n",
    )
    code = (
        "import sys; from pathlib import Path; from lenet_ext.training.images import read_pixels\n"
        "read_pixels(Path(sys.argv[1]), 3, None)"
    )
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    result = python("-c", code, photo, environment={"PATH": path})
    assert "photo.jpg: cannot be read as an image: not BMP, GIF" in result.stderr
    assert not (tmp_path / "started").exists()


def test_transparency_is_told_once(program: Program, trained: Path) -> None:
    write_image_folders(Path("folder"))
    for number in (0, 1):
        write_png(Path(f"folder/train/cat/{number}.png"), 16, 16, colour_type=RGBA)
    options = ("--data", "folder", "--root", "folder", "--epochs", 1, "--no-compare", "--out", "out")
    result = program("train", *options)
    assert result.code == 0
    assert result.err == "lenet-ext: folder: 2 of 18 images have transparency: laid over white\n"
    images = [Path(f"folder/train/cat/{number}.png") for number in (0, 1, 2)]
    result = program("predict", "--checkpoint", trained / "checkpoint.safetensors", *images)
    assert result.err == "lenet-ext: 2 of 3 images have transparency: laid over white\n"
