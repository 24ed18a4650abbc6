"""Reading image files with Pillow: the header first, the pixels later."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from lenet_ext.training.errors import InputError, error_text, os_error_text
from lenet_ext.training.files import check_is_file

# Formats of pixels only: Pillow would start Ghostscript for an EPS file, whatever its name ends in. Of these
# `_check_pixels` knows how they say that they have more than 8 bits a channel.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
GRAY_MODES = {"1", "L", "LA", "La"}
PALETTE_MODES = {"P", "PA"}
COLOUR_MODES = {"RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
MODE_OF_CHANNELS = {1: "L", 3: "RGB"}
ORIENTATION, UPRIGHT = 0x0112, 1  # an EXIF tag, and its value for pixels as they are seen
BITS_PER_SAMPLE = 258  # a TIFF tag
WANTED = "wanted gray or colour with 8 bits a channel"


@dataclass(frozen=True)
class Header:
    """What a file says before its pixels: `size` (width, height), before it is turned upright."""

    size: tuple[int, int]
    gray: bool
    transparent: bool  # it has an alpha channel or a transparent colour


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Within it a file of too many pixels is an error, and Pillow's remarks on metadata are not printed.

    Filters of warnings belong to the process: enter it in one thread, around those that read.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_header(path: Path) -> Header:
    """What the image in `path` is like, without decoding it.

    Raises `InputError` for a file that is missing, no image, an animation, too large, or of more than 8 bits
    a channel.
    """
    with _opened(path) as image:
        return Header(image.size, _is_gray(image), image.has_transparency_data)


def read_pixels(path: Path, channels: int, size: int | None) -> np.ndarray:
    """The image in `path`, upright and laid over white, as (C, H, W) uint8; 1 channel is gray, 3 are RGB.

    With a `size` it is resized so that its short side fits, and cropped in the middle to (C, size, size);
    Pillow's bilinear filter, in which a pixel of the result depends on all those that it covers. Raises
    `InputError` as `read_header` does, and for a file that is damaged.
    """
    with _opened(path) as file:
        # Most files need neither step, and both copy the image.
        turned = file.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT
        image: Image.Image = ImageOps.exif_transpose(file) if turned else file
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(MODE_OF_CHANNELS[channels])
        if size is not None and image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    return pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile]:
    """The image with its header read; whatever is wrong with it then or later becomes an `InputError`."""
    try:
        if check_is_file(path) == 0:
            raise InputError(f"{path}: an empty file")
        with Image.open(path, formats=FORMATS) as image:
            _check_pixels(path, image)
            yield image
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels, the most it may have"
        ) from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS[:-1])
        raise InputError(f"{path}: cannot be read as an image: not {kinds} or {FORMATS[-1]}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image: {os_error_text(error)}") from error
    except Exception as error:  # also SyntaxError, ValueError, struct.error
        raise InputError(f"{path}: cannot be read as an image: {error_text(error)}") from error


def _check_pixels(path: Path, image: ImageFile) -> None:
    if _has_deep_channels(image):
        raise InputError(f"{path}: more than 8 bits a channel, {WANTED}")
    if image.mode not in GRAY_MODES | PALETTE_MODES | COLOUR_MODES:
        raise InputError(f"{path}: pixel mode {image.mode}, {WANTED}")
    # Many cameras add a small or second view to a photograph (MPO); its first image is the photograph.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise InputError(f"{path}: several frames or pages, wanted a single image")


def _has_deep_channels(image: ImageFile) -> bool:
    """Whether there are more than 8 bits a channel; of colours Pillow would keep 8 without a word."""
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))) > 8
    arguments = image.tile[0][3] if image.tile else None  # of the decoder
    if image.format == "PNG":
        return str(arguments).endswith(";16B")
    if image.format == "PPM" and isinstance(arguments, tuple):
        return isinstance(arguments[1], int) and arguments[1] > 255  # the largest value
    return False


def _is_gray(image: Image.Image) -> bool:
    if image.mode not in PALETTE_MODES:
        return image.mode in GRAY_MODES
    colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())
