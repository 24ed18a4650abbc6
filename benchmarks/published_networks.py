"""Times whole networks, one row each, beside torch eager in both memory formats, on one thread.

`python -m benchmarks.published_networks --networks FILE --out FOLDER` takes every network of the file that
`fuse` takes: inference of 1 and of 32 images, and the training step of 32 with the optimizer and the loss of
the network. Without --networks it takes the networks of the tests. Then it times what a recipe costs
(`RECIPES`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from torch.nn import BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential

from benchmarks.engines import Engine
from benchmarks.environment import environment, environment_text
from benchmarks.measure import STEADY_SPREAD, Measurement, measure
from benchmarks.models import LENET
from benchmarks.network_engines import (
    NETWORK_CHANNELS_LAST,
    NETWORK_COMPILED,
    NETWORK_EAGER,
    OURS,
    network_of,
    refusal,
)
from benchmarks.networks import FORMAT, OWN, MalformedError, Network, one_line, read_networks
from benchmarks.tables import UNSTEADY, significant, table
from benchmarks.tasks import INFERENCE, TRAINING_STEP, Task
from benchmarks.timing import QUICK, Effort, keep_freed_memory

EFFORT = Effort(seconds=0.15, fewest=7)
CASES = ((INFERENCE, 1), (INFERENCE, 32), (TRAINING_STEP, 32))
EAGER_FORMATS = (NETWORK_EAGER, NETWORK_CHANNELS_LAST)
PEERS = tuple(engine.name for engine in (*EAGER_FORMATS, NETWORK_COMPILED))

RECIPE_BATCH = 64
ADAM, SGD = ("Adam", {"lr": 1e-3}), ("SGD", {"lr": 0.05, "momentum": 0.9})


def _conv_bn_relu_pool() -> Module:
    """Three convolutions with batch norm, of 32 to 64 channels."""
    layers: list[Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 64)):
        layers += [Conv2d(inputs, outputs, 3, padding=1), BatchNorm2d(outputs), ReLU(), MaxPool2d(2)]
    return Sequential(*layers, Flatten(), Linear(64 * 4 * 4, 10))


def _recipe(name: str, make: Any, optimizer: Any) -> Network:
    image = LENET.image
    facts: dict[str, Any] = {"shapes": (image,), "optimizer": optimizer, "loss": "cross_entropy"}
    return Network(name, image, make, **facts)


LENET_RECIPES = [_recipe(f"LeNet, {name}", LENET.make, one) for name, one in (("SGD", SGD), ("Adam", ADAM))]
BATCH_NORM = _recipe("conv-bn-relu-pool x3", _conv_bn_relu_pool, SGD)
# Each with its engines: the step of Adam beside that of SGD with momentum, and a network with batch norms.
RECIPES: Sequence[tuple[Network, str, Sequence[Engine]]] = (
    *((network, TRAINING_STEP, (OURS, *EAGER_FORMATS)) for network in LENET_RECIPES),
    *((BATCH_NORM, way, (OURS, *EAGER_FORMATS, NETWORK_COMPILED)) for way in (INFERENCE, TRAINING_STEP)),
)


@dataclass
class Found:
    """What was measured. refused: why `fuse` does not take a network, by its name."""

    name: str  # of its files
    title: str
    environment: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def of(self, direction: str, batch: int) -> list[Measurement]:
        return [
            one for one in self.measurements if (one.task.direction, one.task.batch) == (direction, batch)
        ]

    @property
    def wrong(self) -> list[str]:
        return [reason for one in self.measurements for reason in one.wrong.values()]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.published_networks",
        description="Time whole networks beside torch eager.",
        epilog=FORMAT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--networks", default=OWN, metavar="FILE", help=f"or {OWN!r}: those of the tests")
    parser.add_argument("--out", type=Path, help="write tables, all figures and charts into this folder")
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    options = parser.parse_args(arguments)
    needed = ["tabulate", *(["matplotlib"] if options.out else [])]
    absent = [name for name in needed if find_spec(name) is None]
    if absent:
        parser.error(f"{', '.join(absent)} is not installed: pip install -r benchmarks/requirements.txt")
    try:
        networks = read_networks(options.networks)
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
    except MalformedError as error:
        raise SystemExit(f"--networks: {error}; --help tells the format") from None
    except OSError as error:
        parser.error(f"--out {options.out}: cannot be made a folder: {error.strerror}")
    keep_freed_memory()
    effort = QUICK if options.quick else EFFORT
    name, title = ("own_networks", "The networks of the tests")
    if options.networks != OWN:
        name, title = ("published_networks", "Published networks")
    found = [Found(name, title, environment()), Found("recipes", "What a recipe costs", environment())]
    _measure_networks(found[0], networks, effort)
    _publish(options.out, found[0], networks_markdown(found[0]))
    _measure_recipes(found[1], effort)
    _publish(options.out, found[1], recipes_markdown(found[1]))
    wrong = [reason for one in found for reason in one.wrong if reason.startswith(OURS.name)]
    if wrong:
        raise SystemExit(f"{len(wrong)} wrong results of ours")


def _measure_networks(found: Found, networks: Sequence[Network], effort: Effort) -> None:
    for number, network in enumerate(networks, 1):
        _show_progress(f"{number}/{len(networks)}: {network.name}")
        try:
            reason = refusal(network)
        except Exception as error:
            raise SystemExit(f"--networks: {network.name} does not run: {one_line(error)}") from None
        if reason:
            found.refused[network.name] = reason
            continue
        for direction, batch in CASES:
            task = Task(model=network, batch=batch, direction=direction)
            found.measurements.append(measure(task, (OURS, *EAGER_FORMATS), effort, NETWORK_EAGER))
    _show_progress("")


def _measure_recipes(found: Found, effort: Effort) -> None:
    for network, direction, engines in RECIPES:
        task = Task(model=network, batch=RECIPE_BATCH, direction=direction)
        _show_progress(str(task))
        present = [engine for engine in engines if not engine.missing()]
        found.measurements.append(measure(task, present, effort, NETWORK_EAGER))
    _show_progress("")


def networks_markdown(found: Found) -> str:
    """A row for each network, the means, and what is not in the table."""
    fused = dict.fromkeys(one.task.name for one in found.measurements)
    columns, rows = ["", "training"], {name: [name, ""] for name in fused}
    for one in found.measurements:
        rows[one.task.name][1] = network_of(one.task).recipe()
    summary = []
    for direction, batch in CASES:
        case = f"{direction}, B={batch}"
        columns += [f"{case}, us", "vs torch"]
        measured = found.of(direction, batch)
        for one in measured:
            rows[one.task.name] += [_microseconds(one, OURS.name), _times(_speedup(one))]
        summary += _summary(case, measured)
    count = len(fused) + len(found.refused)
    parts = [
        *_head(found),
        f"`fuse` takes {len(fused)} of {count} networks. Microseconds of a call of ours, and how many times "
        "as long the faster of torch eager and torch eager channels_last takes. A training step is a call of "
        "`TrainStep` with the network's optimizer and loss; where the loss is none of torch's, or parameters "
        "have no part in the first output, it is a loop with the fused network and that optimizer.",
        "\n".join(summary),
        table(columns, *rows.values(), text=(0, 1)),
    ]
    if found.refused:
        refused = (f"- {name}: {reason}" for name, reason in found.refused.items())
        parts += [f"Not taken by `fuse`, {len(found.refused)} of {count}:", "\n".join(refused)]
    return _document([*parts, *_wrong(found)])


def recipes_markdown(found: Found) -> str:
    """A row for each call, a column for each engine."""
    names = list(dict.fromkeys(name for one in found.measurements for name in (OURS.name, *one.timings)))
    rows = []
    for one in found.measurements:
        cells = [_microseconds(one, name) for name in names]
        rows.append([f"{one.label}, {one.task.direction}", *cells, _times(_speedup(one))])
    parts = [
        *_head(found),
        "Microseconds of a call, and how many times as long as ours the fastest of the others takes. SGD is "
        "that with momentum.",
        table(["", *names, "vs the best"], *rows),
    ]
    costs = {one.task.name: one.timings.get(OURS.name) for one in found.measurements}
    sgd, adam = (costs.get(network.name) for network in LENET_RECIPES)
    if sgd and adam:
        parts.append(f"The LeNet's step with Adam takes {adam.median / sgd.median:.2f} times that with SGD.")
    return _document([*parts, *_wrong(found)])


def _head(found: Found) -> list[str]:
    timings = [timing for one in found.measurements for timing in one.timings.values()]
    runs = [timing.runs for timing in timings] or [0]
    unsteady = sum(not one.is_steady(*one.timings) for one in found.measurements)
    return [
        f"# {found.title}",
        f"{environment_text(found.environment)}. One thread. Medians of {min(runs)} to {max(runs)} runs. "
        f"{unsteady} of {len(found.measurements)} cases unsteady ({UNSTEADY}): quartiles more than "
        f"{STEADY_SPREAD:g}x apart.",
    ]


def _summary(case: str, measured: Sequence[Measurement]) -> list[str]:
    known = {one.task.name: value for one in measured if (value := _speedup(one)) is not None}
    if not known:
        return []
    worst = min(known, key=known.__getitem__)
    slower = sum(value < 1 for value in known.values())
    return [
        f"- {case}: geometric mean {geometric_mean(known.values()):.2f}x, slowest {known[worst]:.2f}x "
        f"({worst}), {slower} of {len(known)} slower than torch"
    ]


def _wrong(found: Found) -> list[str]:
    lines = "\n".join(f"- {reason}" for reason in found.wrong)
    return ["Wrong results, and therefore not timed:", lines] if lines else []


def _document(parts: Sequence[str]) -> str:
    return "\n\n".join(parts) + "\n"


def _speedup(one: Measurement) -> float | None:
    return one.speedup(OURS.name, PEERS)


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _microseconds(one: Measurement, engine: str) -> str:
    """Of a call; empty for an engine that was not timed."""
    if engine not in one.timings:
        return ""
    return ("" if one.is_steady(engine) else UNSTEADY) + significant(one.timings[engine].median * 1e6)


def record(one: Measurement) -> dict[str, Any]:
    """For a JSON file: times in seconds of one call."""
    network = network_of(one.task)
    facts = {"name": network.name, "source": network.source, "shapes": network.shapes}
    optimizer, options = network.optimizer
    recipe = {"optimizer": optimizer, "options": options, "loss": network.loss, "training": network.recipe()}
    call = {"direction": one.task.direction, "batch": one.task.batch, "threads": one.task.threads}
    timings = {engine: asdict(timing) for engine, timing in one.timings.items()}
    return {**facts, **recipe, **call, "speedup": _speedup(one), "timings": timings, "wrong": dict(one.wrong)}


def _publish(out: Path | None, found: Found, markdown: str) -> None:
    print(markdown, flush=True)
    if out is None:
        return
    content: dict[str, Any] = {
        "environment": found.environment,
        "title": found.title,
        "refused": found.refused,
    }
    content["measurements"] = [record(one) for one in found.measurements]
    (out / f"{found.name}.json").write_text(json.dumps(content, indent=2) + "\n")
    picture = ""
    if found.measurements:
        (out / f"{found.name}.png").write_bytes(_chart(found))
        picture = f"\n![{found.name}]({found.name}.png)\n"
    (out / f"{found.name}.md").write_text(markdown + picture)


def _chart(found: Found) -> bytes:
    """A panel for each kind of call, a row for each network."""
    from benchmarks.charts import Bars, bar_chart  # which need matplotlib

    panels: dict[str, list[Bars]] = {}
    for one in found.measurements:
        case = f"{one.task.direction}, B={one.task.batch}"
        panels.setdefault(case, []).append(Bars(one.task.name, [_speedup(one)]))
    title = f"{found.title}: speed-up of lenet_ext over the fastest of the others"
    caption = f"medians, logarithmic axis; {environment_text(found.environment)}"
    return bar_chart(title, caption, panels, ["1 thread"])


def _show_progress(text: str) -> None:
    """One line on a terminal, written over by the next."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
