"""The pictures of a run that is done."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lenet_ext.training import plots
from lenet_ext.training.errors import InputError, error_text
from lenet_ext.training.files import write_atomically
from lenet_ext.training.loop import Observer, Run

PICTURES = ("curves.png", "filters.png", "confusion.png")


def write_pictures(out: Path, run: Run, observer: Observer) -> None:
    """The network is trained and saved: no failure here may cost more than a picture."""
    drawings: tuple[Callable[[], bytes], ...] = (
        lambda: plots.curves(run.records()),
        lambda: plots.filters(first_filters(run.learners[0].model)),
        lambda: plots.confusion(confusion_matrix(run), run.dataset.class_names),
    )
    for name, draw in zip(PICTURES, drawings, strict=True):
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


def first_filters(model: torch.nn.Module) -> Tensor:
    """The weight of the first Conv2d; an `InputError` where there is none."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            return module.weight.detach().cpu()
    raise InputError(f"{PICTURES[1]}: the network has no Conv2d whose filters could be drawn")


def confusion_matrix(run: Run) -> Tensor:
    """(classes, classes) int64: how many test images of class (row) were taken for class (column)."""
    classes = len(run.dataset.class_names)
    test = run.dataset.test
    run.learners[0].train(False)
    predictions = run.learners[0].predict(test.images.to(run.config.device)).cpu()
    return torch.bincount(test.labels * classes + predictions, minlength=classes**2).view(classes, classes)
