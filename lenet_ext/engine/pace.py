"""Pace: how many training steps to take before Python looks for signals again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

__all__ = ["Pace"]

# Between two looks: long beside what a call costs, short enough for someone who waits after Ctrl-C.
SECONDS = 0.05


class Pace:
    """Knows how long an image of the last steps took."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._image_seconds: float | None = None

    def steps(self, batch_size: int) -> int:
        """How many steps of `batch_size` images take about the time between two looks; one as long as it is
        not known.
        """
        if self._image_seconds is None:
            return 1
        return max(1, int(self._seconds / (self._image_seconds * batch_size)))

    @contextmanager
    def measured(self, images: int) -> Iterator[None]:
        """Around steps of so many images."""
        begin = perf_counter()
        yield
        self._image_seconds = max(perf_counter() - begin, 1e-9) / images
