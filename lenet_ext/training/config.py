"""The settings of one training run: defaults, checks, and whether a run may be resumed with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import torch

from lenet_ext import build_info
from lenet_ext.models import SMALLEST_IMAGE
from lenet_ext.training.data import DATASETS
from lenet_ext.training.errors import InputError

ENGINE_TITLES = {"fused": "lenet_ext", "layers": "lenet_ext layers", "torch": "native torch"}
LARGEST_IMAGE = 2**15  # on a side: torch can still count the weights of its LeNet
DEVICES = ("auto", "cpu", "cuda")
# Where a data set wants other values than those of `TrainingConfig`.
DEFAULTS: dict[str, dict[str, int]] = {
    "digits": {"epochs": 20, "batch_size": 32},
    "mnist": {"epochs": 5},
    "fashion-mnist": {"epochs": 10},
}

MOST_EPOCHS = 1_000_000  # the checkpoint has a record of each
MOST_IMAGES = 2**31 - 1
FLOAT32 = torch.finfo(torch.float32)

SCHEDULES = ("cosine", "linear", "step", "constant")
# Optimizers, with the learning rates that a run has unless it is given another.
LEARNING_RATES = {"sgd": 0.02, "adam": 0.001, "adamw": 0.001}

# A resumed run's data, and the file of its network, are compared by content, so they may have moved.
FREE_TO_CHANGE = {"root", "model"}


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the outcome of a run, besides the data itself."""

    data: str = "digits"
    root: str = "data"
    model: str | None = None  # FILE.py:Name of the user's own network; None: the LeNet
    epochs: int = 12
    batch_size: int = 64
    lr: float = 0.02
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    label_smoothing: float = 0.0
    augment: bool = False
    engine: str = "fused"
    device: str = "cpu"
    seed: int = 0
    compare: bool = True
    image_size: int | None = None  # images of a folder are resized and cropped to it; None: taken as they are

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(TrainingConfig).items():  # a checkpoint may hold anything
            _check(_is_a(getattr(self, name), kind), name, getattr(self, name), f"a value of type {kind}")
        _check_choice("data", self.data, DATASETS)
        _check_choice("engine", self.engine, tuple(ENGINE_TITLES))
        _check_choice("device", self.device, ("cpu", "cuda"))
        _check_choice("optimizer", self.optimizer, tuple(LEARNING_RATES))
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check(1 <= self.epochs <= MOST_EPOCHS, "epochs", self.epochs, f"1 to {MOST_EPOCHS}")
        _check(1 <= self.batch_size <= MOST_IMAGES, "batch-size", self.batch_size, f"1 to {MOST_IMAGES}")
        in_float32 = FLOAT32.tiny <= self.lr <= FLOAT32.max
        _check(in_float32, "lr", self.lr, f"a positive number, {FLOAT32.tiny:.2g} to {FLOAT32.max:.2g}")
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and less than 1")
        if self.momentum > 0 and self.optimizer != "sgd":
            raise InputError(
                f"--momentum {self.momentum}: --optimizer {self.optimizer} has none; leave it out"
            )
        decays = 0 <= self.weight_decay <= FLOAT32.max
        _check(decays, "weight-decay", self.weight_decay, f"at least 0, at most {FLOAT32.max:.2g}")
        smooths = 0 <= self.label_smoothing < 1
        _check(smooths, "label-smoothing", self.label_smoothing, "at least 0 and less than 1")
        _check(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2**63 - 1")
        if self.image_size is not None:
            wanted = f"{SMALLEST_IMAGE} to {LARGEST_IMAGE} pixels"
            in_range = SMALLEST_IMAGE <= self.image_size <= LARGEST_IMAGE
            _check(in_range, "image-size", self.image_size, wanted)
            _check(self.data == "folder", "image-size", self.image_size, "--data folder with it")
        if self.compare and self.engine == "torch":
            raise InputError(
                "--compare: --engine torch is what the others are compared with; use --no-compare"
            )


def new_config(options: Mapping[str, Any]) -> TrainingConfig:
    """The settings of a new run; an option that is None takes its default, which can depend on the data."""
    given = given_options(options)
    given = {**DEFAULTS.get(given.get("data", TrainingConfig.data), {}), **given}
    given.setdefault("compare", given.get("engine") != "torch")
    optimizer = given.get("optimizer", TrainingConfig.optimizer)
    given.setdefault("lr", LEARNING_RATES.get(optimizer, TrainingConfig.lr))
    if optimizer != TrainingConfig.optimizer:
        given.setdefault("momentum", 0.0)
    given["device"] = resolve_device(given.get("device", "auto"))
    return TrainingConfig(**given)


def resumed_config(options: Mapping[str, Any], stored: Mapping[str, Any]) -> TrainingConfig:
    """The settings of a run that goes on: those in its checkpoint.

    An option may be repeated, but not changed: the result would be neither the old run nor a new one (the
    learning rate's schedule, for one, spans all epochs). Raises `InputError` naming the option otherwise.
    """
    given = given_options(options)
    if "device" in given:
        given["device"] = resolve_device(given["device"])
    if "model" in given and stored["model"] is None:
        raise InputError(f"--model {given['model']}: the run to resume is of the LeNet; leave it out")
    refuse_changes(given, stored, "run")
    resolve_device(stored["device"])
    return TrainingConfig(**{**stored, **{name: given[name] for name in FREE_TO_CHANGE & given.keys()}})


def refuse_changes(given: Mapping[str, Any], stored: Mapping[str, Any], what: str) -> None:
    """Raises `InputError` for an option of a `what` to resume that is not as stored, but may not change."""
    for name, value in given.items():
        if value != stored[name] and name not in FREE_TO_CHANGE:
            given_text, stored_text = (_option_text(name, one) for one in (value, stored[name]))
            raise InputError(
                f"{given_text}: the {what} to resume was started with {stored_text}; "
                f"leave {given_text.split()[0]} out, or start a new {what} with another --out"
            )


def resolve_device(device: str) -> str:
    """ "cpu" or "cuda" for "auto", "cpu" or "cuda"; an `InputError` for "cuda" where torch has none."""
    _check_choice("device", device, DEVICES)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() and build_info()["cuda"] else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return device


def _option_text(name: str, value: object) -> str:
    """As it is typed."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return f"no {option}" if value is None else f"{option} {value}"


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the user gave."""
    return {name: value for name, value in options.items() if value is not None}


def _is_a(value: object, kind: Any) -> bool:
    """Whether JSON would read it as this type: a whole number may be a float, but True is no number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, name, value, "one of " + ", ".join(choices))


def _check(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise InputError(f"--{name} {value}: wanted {wanted}")
