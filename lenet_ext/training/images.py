"""Decoding image files with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lenet_ext.training.errors import InputError, os_error_text

GRAY_MODES = {"1", "L", "LA", "La"}
COLOUR_MODES = {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"}


def open_image(path: Path) -> Image.Image:
    """The image in `path`, decoded, upright, in mode "L" (gray) or "RGB".

    Raises `InputError` for a file that is missing, damaged, no image, or of more than 8 bits a channel.
    """
    try:
        with Image.open(path) as file:
            # Most files need neither step, and both copy the image.
            image = ImageOps.exif_transpose(file) if file.getexif().get(0x0112, 1) != 1 else file
            if image.mode not in GRAY_MODES | COLOUR_MODES:
                raise InputError(
                    f"{path}: pixel mode {image.mode}, wanted gray or colour with 8 bits a channel"
                )
            return image.convert("L" if image.mode in GRAY_MODES else "RGB")
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:  # Pillow's own errors are OSErrors, with the file's name in the text of some
        reason = "not an image" if "cannot identify" in str(error) else os_error_text(error)
        raise InputError(f"{path}: cannot be read as an image: {reason}") from error
    except Exception as error:  # also SyntaxError, ValueError, struct.error, DecompressionBombError
        raise InputError(f"{path}: cannot be read as an image: {error}") from error


def pixels_of(image: Image.Image) -> np.ndarray:
    """(C, H, W) uint8; C is 1 for mode "L" and 3 for "RGB"."""
    pixels = np.asarray(image)
    return pixels[np.newaxis] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
