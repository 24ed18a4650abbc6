"""Writing files so that a crash leaves the old file or the new one; what may be opened to be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lenet_ext.training.errors import InputError, os_error_text

OTHER_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_is_file(path: Path) -> int:
    """The size in bytes of the file `path`, or of the one that it links to.

    Raises `InputError` for anything else: opening a FIFO or a device can wait for ever. Raises `OSError`
    where nothing is found.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = OTHER_KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise InputError(f"{path}: {kind}, wanted a regular file")
    return status.st_size


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, flush it to the disk and rename it over `path`.

    The temporary name is fixed, so what a killed run leaves behind is written over by the next one (`locked`
    keeps two runs apart). Raises `InputError` if the file cannot be written; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise InputError(f"{path}: cannot be written: {os_error_text(error)}") from error


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone; the lock vanishes with the process, however it ends."""
    try:
        import fcntl
    except (
        ImportError
    ):  # no such locks on this platform: two runs into one folder are then the user's to avoid
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{folder}: cannot be opened: {os_error_text(error)}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another run is writing into this folder") from error
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        os.close(descriptor)


@contextmanager
def own_folder(out: Path) -> Iterator[None]:
    """`out`, made and locked; an error before there is anything in it takes it away again."""
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    _make_folder(out)
    try:
        with locked(out):
            yield
    except BaseException:
        with suppress(OSError):  # it is not empty
            for folder in missing:
                folder.rmdir()
        raise


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made a folder: {os_error_text(error)}") from error
    if not os.access(out, os.W_OK):
        raise InputError(f"{out}: cannot be written into")
