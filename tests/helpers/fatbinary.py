"""Which GPU code a compiled file holds, read from the headers of its fat binaries.

nvcc stores them as `cuobjdump --list-elf --list-ptx` shows them, but that program is not everywhere.
"""

from __future__ import annotations

import struct
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
HEADER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes after it
ENTRY = struct.Struct("<HHIQ12xI")  # kind, version, bytes of this header, bytes after it, architecture
PREFIXES = {1: "compute_", 2: "sm_"}  # PTX, machine code


def architectures(path: Path) -> set[str]:
    """For example {"sm_80", "sm_90", "compute_90"}."""
    data = path.read_bytes()
    found = set()
    position = data.find(MAGIC)
    while position >= 0:
        _, version, header_size, size = HEADER.unpack_from(data, position)
        begin = position + header_size
        if version != 1 or header_size != HEADER.size or begin + size > len(data):
            position = data.find(MAGIC, position + 1)  # four bytes that look like it
            continue
        entry = begin
        while entry < begin + size:
            kind, _, entry_header_size, entry_size, architecture = ENTRY.unpack_from(data, entry)
            found.add(f"{PREFIXES.get(kind, 'unknown ')}{architecture}")
            entry += entry_header_size + entry_size
        position = data.find(MAGIC, begin + size)
    return found
