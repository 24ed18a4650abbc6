"""What the pictures of a run show."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lenet_ext.training import plots
from lenet_ext.training.errors import InputError
from lenet_ext.training.loop import Run

PICTURES = ("curves.png", "filters.png", "confusion.png")


def drawings_of(run: Run) -> dict[str, Callable[[], bytes]]:
    """What draws each of `PICTURES`, of a run that is done."""
    drawings: tuple[Callable[[], bytes], ...] = (
        lambda: plots.curves(run.records()),
        lambda: plots.filters(first_filters(run.learners[0].model)),
        lambda: plots.confusion(confusion_matrix(run), run.dataset.class_names),
    )
    return dict(zip(PICTURES, drawings, strict=True))


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
