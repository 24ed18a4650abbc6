"""PNG files by hand, in the forms that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6  # colour types
SAMPLES = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}


def write_png(
    path: Path, width: int, height: int, bits: int = 8, colour_type: int = RGB, **chunks: bytes
) -> Path:
    """An image of zeros, with `chunks` such as PLTE and tRNS before the pixels, at `path`."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    row = bytes(1 + (width * bits * SAMPLES[colour_type] + 7) // 8)
    pixels = zlib.compress(row * height)
    parts = [("IHDR", header), *chunks.items(), ("IDAT", pixels), ("IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name.encode(), content) for name, content in parts)
    )
    return path


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
