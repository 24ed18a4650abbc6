"""Writing the pictures of a run, whose work is done and saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from lenet_ext.training.errors import InputError, error_text
from lenet_ext.training.files import write_atomically


class PictureObserver(Protocol):
    """Who is told what becomes of the pictures."""

    def note(self, text: str) -> None:
        """Something that the user may not expect, and that is no error."""

    def going_on(self) -> None:
        """Called before each picture, and wherever else the run may end; may raise what ends it there."""

    def picture_failed(self, name: str, message: str) -> None: ...


def write_pictures(out: Path, drawings: Mapping[str, Callable[[], bytes]], observer: PictureObserver) -> None:
    """Draw each and write it into `out` by its name; no failure may cost more than a picture."""
    for name, draw in drawings.items():
        observer.going_on()
        try:
            with warnings.catch_warnings(record=True) as flaws:  # e.g. letters that the font lacks
                warnings.simplefilter("always")
                content = draw()
            write_atomically(out / name, content)
        except InputError as error:
            observer.picture_failed(name, str(error))
        except Exception as error:
            observer.picture_failed(name, f"{out / name}: cannot be drawn: {error_text(error)}")
        else:
            if flaws:
                observer.note(f"{out / name}: {error_text(flaws[0].message)}")
