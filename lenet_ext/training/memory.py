"""How much memory there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lenet_ext.training.errors import InputError

GIB = 2**30


def require_memory(needed: int, subject: str, advice: str = "") -> None:
    """Raise `InputError` if there are fewer than `needed` bytes: `subject`, the two numbers, `advice`."""
    available = available_memory()
    if available is not None and needed > available:
        there = f"{gib_text(available)} are available"
        raise InputError(f"{subject} needs about {gib_text(needed)} of memory, but {there}{advice}")


def available_memory(root: Path = Path("/")) -> int | None:
    """The bytes that this process can still take: the machine's, or what its control groups leave of them.

    None where the system does not say. root: of the file system.
    """
    found = [*_machine_memory(root), *_group_memory(root)]
    return min(found) if found else None


def _machine_memory(root: Path) -> Iterator[int]:
    for name, value in _fields(root / "proc/meminfo"):
        if name == "MemAvailable:":
            yield int(value) * 1024


def _group_memory(root: Path) -> Iterator[int]:
    """For each control group that the process is in, of version 1 or 2, and those above it."""
    groups = _text_of(root / "proc/self/cgroup").splitlines()
    for controllers, path in (line.split(":", 2)[1:] for line in groups if line.count(":") >= 2):
        if controllers == "":
            top, limit_name, usage_name = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            limit_name, usage_name = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")  # in a container it may not be there, only the top is
        for folder in (group, *group.parents):
            limit, usage = _text_of(folder / limit_name).strip(), _text_of(folder / usage_name).strip()
            if limit.isdecimal() and usage.isdecimal():  # a limit can also be "max"
                # The kernel gives back what it holds of files when memory runs out.
                cache = sum(
                    int(value) for name, value in _fields(folder / "memory.stat") if name == "inactive_file"
                )
                yield max(int(limit) - int(usage) + cache, 0)
            if folder == top:
                break


def _fields(path: Path) -> Iterator[tuple[str, str]]:
    """The first two words of each line."""
    for line in _text_of(path).splitlines():
        name, value, *_ = [*line.split(), "", ""]
        yield name, value


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def gib_text(count: int) -> str:
    return f"{count / GIB:,.1f} GiB"
