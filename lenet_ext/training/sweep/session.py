"""One call of `lenet-ext sweep`: refuse, start or resume; train all members; leave the files behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lenet_ext.training.checkpoint import save_checkpoint
from lenet_ext.training.config import given_options, refuse_changes
from lenet_ext.training.data import load_dataset
from lenet_ext.training.dataset import Dataset, Outline
from lenet_ext.training.errors import InputError, require
from lenet_ext.training.files import own_folder, write_atomically
from lenet_ext.training.loop import Run
from lenet_ext.training.needs import check_memory, members_that_fit
from lenet_ext.training.network import build_network, network_of, why_not_fused
from lenet_ext.training.own_network import OwnNetwork, trusted
from lenet_ext.training.pictures import PictureObserver, write_pictures
from lenet_ext.training.processes import Processes
from lenet_ext.training.session import Resume, check_batches
from lenet_ext.training.sweep import on_ray, plots
from lenet_ext.training.sweep.chunk import Chunk, read_chunk, train_chunk
from lenet_ext.training.sweep.config import SweepConfig, new_sweep, resumed_sweep
from lenet_ext.training.sweep.settings import SETTINGS, Settings, read_settings, settings_text
from lenet_ext.training.sweep.state import Sweep

RECORDS = "sweep.jsonl"
BEST = "best.safetensors"
CHUNKS = "chunks"
PICTURES = ("heatmap.png", "curves.png")


class SweepObserver(PictureObserver, Protocol):
    """Who wants to follow a sweep; `going_on` is called again and again while it is trained."""

    def sweep_started(self, sweep: Sweep) -> None: ...

    def steps_done(self, chunk: int, epoch: int, steps: int) -> None: ...

    def epoch_done(self, sweep: Sweep, chunk: int) -> None: ...


def sweep_in_folder(
    out: Path,
    options: Mapping[str, Any],
    resume: Resume,
    observer: SweepObserver,
    *,
    trusts_model: bool = False,
    chunk: int | None = None,
    ray: str | None = None,
) -> Sweep:
    """Train all combinations that `options` (of `new_sweep`) name, and write into `out`.

    With `resume`, the sweep in `out` goes on from the last whole epoch of each chunk, and ends with bitwise
    what an uninterrupted one has; "auto" starts one where there is none. chunk: how many members are trained
    at once; by default as many as memory holds. ray: the address of a Ray cluster that trains the chunks, ""
    for one of this machine's. Raises `InputError` for anything wrong with options, data or files, and where
    all members have diverged.
    """
    if resume is True and not (out / SETTINGS).exists():
        raise InputError(
            f"--resume: {out} holds no {SETTINGS} to go on from; name the sweep's folder by --out, "
            "or use --resume=auto, which starts a sweep where there is none"
        )
    if chunk is not None and chunk < 1:
        raise InputError(f"--chunk {chunk}: wanted at least 1")
    if ray is not None:
        require("ray")
    with own_folder(out), ExitStack() as stack:
        _refuse_to_overwrite(out, resume)
        stored = read_settings(out / SETTINGS) if resume and (out / SETTINGS).exists() else None
        config, own = _settings(out, stored, options, chunk, trusts_model)
        dataset, fitting = _data(config, own, observer)
        data_sha256 = dataset.fingerprint()
        if stored and stored.data_sha256 != data_sha256:
            raise InputError(
                f"{out / SETTINGS}: the sweep to resume was trained on other data than {config.first.data} "
                f"in {config.first.root} holds now"
            )
        if own is not None and not stored:
            _check_own(own, dataset, config)
        workers = 1 if ray is None else stack.enter_context(on_ray.cluster(ray))
        count = len(config.members())
        size = stored.chunk if stored else chunk or min(fitting, -(-count // workers))
        sweep = Sweep(config, dataset, data_sha256, own, size)
        _read_chunks(sweep, out)
        write_atomically(out / SETTINGS, settings_text(sweep).encode())
        (out / CHUNKS).mkdir(exist_ok=True)
        observer.sweep_started(sweep)
        _write_best(sweep, out)
        _write_records(sweep, out)
        keep = partial(_keep, sweep, out, observer)
        if ray is None:
            for number in sweep.pending():
                _train_here(sweep, number, keep, observer)
        else:
            on_ray.train_chunks(sweep, keep, observer)
        if sweep.best() is None:
            raise InputError(f"all {count} networks diverged ({out / RECORDS} says when); use a smaller --lr")
        drawings = (partial(plots.heatmap, sweep), partial(plots.curves, sweep))
        write_pictures(out, dict(zip(PICTURES, drawings, strict=True)), observer)
    return sweep


def _settings(
    out: Path, stored: Settings | None, options: Mapping[str, Any], chunk: int | None, trusts_model: bool
) -> tuple[SweepConfig, OwnNetwork | None]:
    """Those of the sweep to resume, where `options` do not contradict them, or else of a new one."""
    if stored is not None:
        config = resumed_sweep(options, stored.options)
        refuse_changes(given_options({"chunk": chunk}), {"chunk": stored.chunk}, "sweep")
        return config, trusted(stored.own, out / SETTINGS, options.get("model"), trusts_model)
    if trusts_model:
        raise InputError("--trust-model: is for --resume of a sweep of a network of your own")
    config = new_sweep(options)
    return config, None if config.first.model is None else OwnNetwork.read(config.first.model)


def _data(config: SweepConfig, own: OwnNetwork | None, observer: SweepObserver) -> tuple[Dataset, int]:
    """The data set, and how many members fit into memory beside it; refuses data beside which none does."""
    first, fitting = config.first, 1

    def announce(outline: Outline) -> None:
        nonlocal fitting
        memory = check_memory(outline, first, own)
        for remark in [*outline.remarks, *([memory] if memory else [])]:
            observer.note(remark)
        fitting = members_that_fit(outline, first, own)

    return load_dataset(first.data, Path(first.root), first.image_size, announce), fitting


def _check_own(own: OwnNetwork, dataset: Dataset, config: SweepConfig) -> None:
    check_batches(own, dataset, config.first, Processes())
    network = network_of(dataset)
    model = build_network(network, "torch", own, config.first.seed)
    reason = why_not_fused(model, network, config.first.device)
    if reason is not None:
        raise InputError(f"--model {own.title}: sweep trains in the fused engine: {reason}")


def _read_chunks(sweep: Sweep, out: Path) -> None:
    for number, members in enumerate(sweep.ranges()):
        path = _path(out, number)
        if path.exists():
            sweep.chunks[number] = read_chunk(path, sweep.key, [sweep.members[m] for m in members])


def _train_here(
    sweep: Sweep, number: int, keep: Callable[[int, Chunk], None], observer: SweepObserver
) -> None:
    class Here:
        def steps_done(self, epoch: int, steps: int) -> None:
            observer.going_on()
            observer.steps_done(number, epoch, steps)

        def epoch_done(self, chunk: Chunk) -> None:
            keep(number, chunk)

    configs = [sweep.members[member] for member in sweep.ranges()[number]]
    train_chunk(configs, sweep.dataset, sweep.own, sweep.chunks.get(number), Here())


def _keep(sweep: Sweep, out: Path, observer: SweepObserver, number: int, chunk: Chunk) -> None:
    """Write what a chunk has come to. Its file comes first: the others are made from what such files hold."""
    write_atomically(_path(out, number), chunk.sealed(sweep.key))
    # Of a chunk that is being trained the records alone are needed, the rest is the trainer's.
    sweep.chunks[number] = chunk if chunk.finished else replace(chunk, tensors={})
    if chunk.finished:
        _write_best(sweep, out)
    _write_records(sweep, out)
    observer.epoch_done(sweep, number)


def _write_best(sweep: Sweep, out: Path) -> None:
    """As `lenet-ext train` would leave it."""
    best = sweep.best()
    if best is not None:
        chunk = sweep.chunks[best // sweep.chunk_size]
        history = chunk.histories[best % sweep.chunk_size]
        run = Run(sweep.members[best], sweep.dataset, sweep.normalize, [], history, sweep.own)
        save_checkpoint(out / BEST, run, sweep.data_sha256, chunk.tensors, chunk.frozen)


def _write_records(sweep: Sweep, out: Path) -> None:
    text = "".join(json.dumps(line) + "\n" for line in sweep.lines())
    write_atomically(out / RECORDS, text.encode())


def _path(out: Path, number: int) -> Path:
    return out / CHUNKS / f"{number:05d}.safetensors"


def _refuse_to_overwrite(out: Path, resume: Resume) -> None:
    if (out / SETTINGS).exists():
        if not resume:
            raise InputError(f"{out / SETTINGS}: exists already; use --resume to go on, or another --out")
        return
    for name in (RECORDS, BEST, CHUNKS, *PICTURES):  # someone else's: a sweep's first file is its settings
        if (out / name).exists():
            raise InputError(f"{out / name}: exists already, without a sweep; use another --out")
