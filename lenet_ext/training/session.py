"""One call of `lenet-ext train`: refuse, start or resume; train; leave the files behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lenet_ext.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    restore_learners,
    save_checkpoint,
)
from lenet_ext.training.config import TrainingConfig, new_config, resumed_config
from lenet_ext.training.data import Normalization, load_dataset
from lenet_ext.training.data_parallel import check_divisible
from lenet_ext.training.dataset import Dataset, Outline
from lenet_ext.training.errors import InputError
from lenet_ext.training.files import own_folder, write_atomically
from lenet_ext.training.learner import LEARNERS
from lenet_ext.training.loop import Observer, Run, fit
from lenet_ext.training.needs import check_memory
from lenet_ext.training.network import build_network, network_of, why_not_fused
from lenet_ext.training.own_network import OwnNetwork, trusted
from lenet_ext.training.pictures import write_pictures
from lenet_ext.training.processes import Processes
from lenet_ext.training.run_pictures import PICTURES, drawings_of

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
CONFIG = "config.json"

Resume = bool | Literal["auto"]


def train_in_folder(
    out: Path,
    options: Mapping[str, Any],
    resume: Resume,
    observer: Observer,
    *,
    trusts_model: bool = False,
    processes: Processes | None = None,
) -> Run:
    """Train as `options` say (fields of `TrainingConfig`; None means the default) and write into `out`.

    With `resume`, the run in `out` goes on from its checkpoint and ends with bitwise the weights of an
    uninterrupted run; "auto" starts one where there is none. trusts_model: whether the text of a user's own
    network may be run that the checkpoint alone has. processes: those that train together, by default this
    one alone; each of them calls this, and options and files are those of the first. Raises `InputError` for
    anything wrong with options, data or files; what is in `out` is then intact. A picture that can't be drawn
    is told to `observer`, and is no error.
    """
    processes = processes or Processes()
    with ExitStack() as held:
        start = processes.from_first(lambda: _start(out, options, resume, trusts_model, held))
        config, own, checkpoint = start.config, start.own, start.checkpoint
        processes.use(config.device)
        with processes.agreed():
            dataset = load_dataset(
                config.data,
                Path(config.root),
                config.image_size,
                lambda outline: _announce(outline, start, processes, observer),
            )
            if own is not None and (processes.count > 1 or not checkpoint):
                check_batches(own, dataset, config, processes)
            if own is not None and not checkpoint:
                config = _engine_that_takes(own, dataset, config, options.get("engine") is not None, observer)
            data_sha256 = dataset.fingerprint()
        expected = processes.from_first(lambda: data_sha256)
        with processes.agreed():
            if data_sha256 != expected:
                raise InputError(
                    f"--root {config.root}: process {processes.rank} finds other data than process 0"
                )
            if config.device == "cuda":
                torch.backends.cudnn.deterministic = True  # native torch's twin must be resumed exactly too
            run = _new_run(config, dataset, own, processes)
            if checkpoint:
                _restore(run, checkpoint, data_sha256)
        for learner in run.learners:
            processes.take_from_first(learner.model.state_dict().values())

        def save(run: Run) -> None:
            # The checkpoint comes first: the other files are made from what it holds.
            save_checkpoint(out / CHECKPOINT, run, data_sha256)
            write_atomically(out / METRICS, _metrics_text(run).encode())

        def save_first(run: Run) -> None:
            save(run)
            write_atomically(out / CONFIG, _config_text(run).encode())

        processes.from_first(lambda: save_first(run))
        observer.run_started(run)
        fit(run, save, observer)
        if processes.is_first:
            write_pictures(out, drawings_of(run), observer)
    return run


@dataclass(frozen=True)
class _Start:
    """What a run is, before its data is read."""

    config: TrainingConfig
    own: OwnNetwork | None
    checkpoint: Checkpoint | None


def _start(
    out: Path, options: Mapping[str, Any], resume: Resume, trusts_model: bool, held: ExitStack
) -> _Start:
    """Of a new run or of the one to resume; `held` then holds the lock of its folder."""
    path = out / CHECKPOINT
    if resume is True and not path.exists():
        raise InputError(
            f"--resume: {out} holds no {CHECKPOINT} to go on from; name the run's folder by --out, "
            "or use --resume=auto, which starts a run where there is none"
        )
    # The lock comes first: what is read here may otherwise be older than what another run writes meanwhile.
    held.enter_context(own_folder(out))
    _refuse_to_overwrite(out, resume)
    if resume and path.exists():
        checkpoint = load_checkpoint(path)
        config = resumed_config(options, checkpoint.metadata.config)
        own = trusted(checkpoint.metadata.own, path, options.get("model"), trusts_model)
        return _Start(config, own, checkpoint)
    if trusts_model:
        raise InputError("--trust-model: is for --resume of a run with a network of your own")
    config = new_config(options)
    return _Start(config, None if config.model is None else OwnNetwork.read(config.model), None)


def _announce(outline: Outline, start: _Start, processes: Processes, observer: Observer) -> None:
    memory = check_memory(outline, start.config, start.own, processes.on_machine)
    for remark in [*outline.remarks, *([memory] if memory else [])]:
        observer.note(remark)


def check_batches(own: OwnNetwork, dataset: Dataset, config: TrainingConfig, processes: Processes) -> None:
    """What a network may not take is to be said before an epoch and not behind it.

    That is a batch of one image, for batch norms, and a share of a batch, for what looks at a whole one.
    """
    count, network = len(dataset.train), network_of(dataset)
    batches = {min(config.batch_size, count), count % config.batch_size}
    leaves_one = any(0 < batch < 2 * processes.count for batch in batches)
    if processes.count == 1 and not leaves_one:
        return
    model = build_network(network, "torch", own, config.seed).train()
    if processes.count > 1:
        check_divisible(model, network, own.title)
    if leaves_one:
        whom = "a batch of" if processes.count == 1 else "a process"
        own.check_output(model, network, 1, f"--batch-size {config.batch_size} leaves {whom} one image: ")


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


def _new_run(config: TrainingConfig, dataset: Dataset, own: OwnNetwork | None, processes: Processes) -> Run:
    """Fresh learners that start from the same weights, which the seed alone decides."""
    network, normalize = network_of(dataset), Normalization.of(dataset.train.images)
    engines = [config.engine, "torch"] if config.compare else [config.engine]
    learners = []
    for engine in engines:
        learners.append(LEARNERS[engine](engine, network, config, normalize, own))
    return Run(config, dataset, normalize, learners, history=[], own=own, processes=processes)


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
