"""One call of `lenet-ext train`: refuse, start or resume; train; leave the files behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lenet_ext.training import plots
from lenet_ext.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    restore_learners,
    save_checkpoint,
)
from lenet_ext.training.config import TrainingConfig, new_config, resumed_config
from lenet_ext.training.data import Normalization, load_dataset
from lenet_ext.training.dataset import Dataset, Outline
from lenet_ext.training.errors import InputError
from lenet_ext.training.files import own_folder, write_atomically
from lenet_ext.training.learner import LEARNERS
from lenet_ext.training.loop import Observer, Run, fit
from lenet_ext.training.needs import check_memory
from lenet_ext.training.network import build_network, network_of, why_not_fused
from lenet_ext.training.own_network import OwnNetwork, trusted
from lenet_ext.training.pictures import write_pictures

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
CONFIG = "config.json"
PICTURES = ("curves.png", "filters.png", "confusion.png")

Resume = bool | Literal["auto"]


def train_in_folder(
    out: Path,
    options: Mapping[str, Any],
    resume: Resume,
    observer: Observer,
    *,
    trusts_model: bool = False,
) -> Run:
    """Train as `options` say (fields of `TrainingConfig`; None means the default) and write into `out`.

    With `resume`, the run in `out` goes on from its checkpoint and ends with bitwise the weights of an
    uninterrupted run; "auto" starts one where there is none. trusts_model: whether the text of a user's own
    network may be run that the checkpoint alone has. Raises `InputError` for anything wrong with
    options, data or files; what is in `out` is then intact. A picture that can't be drawn is told to
    `observer`, and is no error.
    """
    checkpoint_path = out / CHECKPOINT
    if resume is True and not checkpoint_path.exists():
        raise InputError(
            f"--resume: {out} holds no {CHECKPOINT} to go on from; name the run's folder by --out, "
            "or use --resume=auto, which starts a run where there is none"
        )
    # The lock comes first: what is read here may otherwise be older than what another run writes meanwhile.
    with own_folder(out):
        _refuse_to_overwrite(out, resume)
        checkpoint = load_checkpoint(checkpoint_path) if resume and checkpoint_path.exists() else None
        if checkpoint:
            config = resumed_config(options, checkpoint.metadata.config)
            own = checkpoint.metadata.own
            own = trusted(own, checkpoint_path, options.get("model"), trusts_model)
        else:
            if trusts_model:
                raise InputError("--trust-model: is for --resume of a run with a network of your own")
            config = new_config(options)
            own = None if config.model is None else OwnNetwork.read(config.model)
        dataset = load_dataset(
            config.data,
            Path(config.root),
            config.image_size,
            lambda outline: _announce(outline, config, own, observer),
        )
        if own is not None and not checkpoint:
            check_last_batch(own, dataset, config)
            config = _engine_that_takes(own, dataset, config, options.get("engine") is not None, observer)
        data_sha256 = dataset.fingerprint()
        if config.device == "cuda":
            torch.backends.cudnn.deterministic = True  # native torch's twin must be resumed exactly too
        run = _new_run(config, dataset, own)
        if checkpoint:
            _restore(run, checkpoint, data_sha256)

        def save(run: Run) -> None:
            # The checkpoint comes first: the other files are made from what it holds.
            save_checkpoint(checkpoint_path, run, data_sha256)
            write_atomically(out / METRICS, _metrics_text(run).encode())

        save(run)
        write_atomically(out / CONFIG, _config_text(run).encode())
        observer.run_started(run)
        fit(run, save, observer)
        _write_pictures(out, run, observer)
    return run


def _announce(outline: Outline, config: TrainingConfig, own: OwnNetwork | None, observer: Observer) -> None:
    memory = check_memory(outline, config, own)
    for remark in [*outline.remarks, *([memory] if memory else [])]:
        observer.note(remark)


def check_last_batch(own: OwnNetwork, dataset: Dataset, config: TrainingConfig) -> None:
    """Of one image, which batch norms may not take; they are to say so before an epoch and not behind it."""
    count, network = len(dataset.train), network_of(dataset)
    if count % config.batch_size == 1 or config.batch_size == 1:
        model = build_network(network, "torch", own, config.seed).train()
        own.check_output(model, network, 1, f"--batch-size {config.batch_size} leaves a batch of one image: ")


def _engine_that_takes(
    own: OwnNetwork, dataset: Dataset, config: TrainingConfig, asked_for: bool, observer: Observer
) -> TrainingConfig:
    """`config`, with the engine "layers" in place of "fused" if that cannot and was not asked for."""
    if config.engine != "fused":
        return config
    network = network_of(dataset)
    reason = why_not_fused(build_network(network, "torch", own, config.seed), network, config.device)
    if reason is None:
        return config
    if asked_for:
        raise InputError(f"--engine fused: {reason}")
    observer.note(f"{own.title}: layer by layer, since the fused engine does not take it: {reason}")
    return replace(config, engine="layers")


def _new_run(config: TrainingConfig, dataset: Dataset, own: OwnNetwork | None) -> Run:
    """Fresh learners that start from the same weights, which the seed alone decides."""
    network, normalize = network_of(dataset), Normalization.of(dataset.train.images)
    engines = [config.engine, "torch"] if config.compare else [config.engine]
    learners = []
    for engine in engines:
        learners.append(LEARNERS[engine](engine, network, config, normalize, own))
    return Run(config, dataset, normalize, learners, history=[], own=own)


def _restore(run: Run, checkpoint: Checkpoint, data_sha256: str) -> None:
    if checkpoint.metadata.data_sha256 != data_sha256:
        raise InputError(
            f"{checkpoint.path}: the run to resume was trained on other data than {run.config.data} in "
            f"{run.config.root} holds now"
        )
    restore_learners(checkpoint, run.learners)
    run.history.extend(checkpoint.metadata.history)


def _refuse_to_overwrite(out: Path, resume: Resume) -> None:
    if (out / CHECKPOINT).exists():
        if not resume:
            raise InputError(f"{out / CHECKPOINT}: exists already; use --resume to go on, or another --out")
        return
    for name in (CONFIG, METRICS, *PICTURES):  # someone else's: a run's first file is its checkpoint
        if (out / name).exists():
            raise InputError(f"{out / name}: exists already, without a checkpoint; use another --out")


def _metrics_text(run: Run) -> str:
    return "".join(json.dumps(record) + "\n" for record in run.history)


def _config_text(run: Run) -> str:
    content = {
        **asdict(run.config),
        "network": network_of(run.dataset),
        "model_sha256": None if run.own is None else run.own.sha256,
        "class_names": run.dataset.class_names,
        "mean": run.normalize.mean,
        "std": run.normalize.std,
        "torch": torch.__version__,
    }
    return json.dumps(content, indent=2) + "\n"


def _write_pictures(out: Path, run: Run, observer: Observer) -> None:
    drawings = (
        lambda: plots.curves(run.records()),
        lambda: plots.filters(first_filters(run.learners[0].model)),
        lambda: plots.confusion(confusion_matrix(run), run.dataset.class_names),
    )
    write_pictures(out, dict(zip(PICTURES, drawings, strict=True)), observer)


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
