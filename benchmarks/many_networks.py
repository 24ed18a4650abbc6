"""Times steps of many LeNets at once and private ones beside what else people write for them.

`python -m benchmarks.many_networks [--out FOLDER]` takes about ten minutes. Engines take turns in one run,
those with threads of their own in processes of their own; results are checked before anything is timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines import TRAIN_STEP, Engine
from benchmarks.environment import environment, environment_text
from benchmarks.many_engines import PER_SAMPLE, PRIVATE, ensemble_engines
from benchmarks.measure import Measurement, measure
from benchmarks.memory import CLEAR, peak_kibibytes
from benchmarks.models import LENET
from benchmarks.tables import significant, table
from benchmarks.targets import Target
from benchmarks.tasks import TRAINING_STEP, Task
from benchmarks.timing import Effort, Timed, Timing, keep_freed_memory, seconds_of, time_in_turns

NAME, TITLE = "many_networks", "Many networks at once, and private ones"
EFFORT, QUICK = Effort(seconds=2.0, fewest=7), Effort(seconds=0.1, fewest=3)
MANY, THOUSAND = 100, 1000
MEMORY_BATCH, SMALL_BATCH = 4096, 16


@dataclass(frozen=True)
class Case:
    """A call that several engines do, the first of them ours; reference: whose results must be theirs.

    goals: (name, the peers of which the fastest counts, must, aim).
    """

    name: str
    task: Task
    engines: Sequence[Engine]
    reference: Engine
    goals: Sequence[tuple[str, Sequence[str], float, float]]


@dataclass
class Found:
    """cases: the timings of each; goals: each with what was measured, None where it was not."""

    environment: dict[str, Any]
    cases: dict[str, Measurement] = field(default_factory=dict)
    goals: list[tuple[Target, float | None]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, must: float, aim: float, value: float | None, **kind: Any) -> None:
        self.goals.append((Target(name, must, aim, lambda *_: value, **kind), value))


def _task(batch: int) -> Task:
    return Task(model=LENET, batch=batch, direction=TRAINING_STEP)


def _cases() -> list[Case]:
    many, thousand = ensemble_engines(MANY), ensemble_engines(THOUSAND)
    steps, eager, vmapped, jax = (engine.name for engine in many[1:])
    hundred = f"{MANY} LeNets, a step of 32 images each"
    single = f"{THOUSAND:,} LeNets, a step of one image each"
    opacus = [engine.name for engine in PRIVATE if engine.packages]
    beside = [(eager, 6, 7.5), (vmapped, 11, 14), (jax, 60, 75)]
    cases = [
        Case(hundred, _task(32), many, many[2], [(f"{hundred}: {p}", [p], m, a) for p, m, a in beside]),
        Case(
            single,
            _task(1),
            thousand[:3],
            thousand[2],
            [(f"{single}: {eager}", [eager], 14, 20), (f"{single}: {steps}", [steps], 1.25, 1.8)],
        ),
    ]
    for batch in (64, 256):
        name = f"DP-SGD step, B={batch}"
        goal = (f"{name}: the fastest mode of Opacus", opacus, 12, 15)
        cases.append(Case(name, _task(batch), PRIVATE, PRIVATE[1], [goal]))
    name = "Per-sample gradients, B=256"
    goals = [(f"{name}: {PER_SAMPLE[1].name}", 5, 8), (f"{name}: {PER_SAMPLE[2].name}", 8, 12)]
    peers = [(text, [text.partition(": ")[2]], must, aim) for text, must, aim in goals]
    return [*cases, Case(name, _task(256), PER_SAMPLE, PER_SAMPLE[1], peers)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.many_networks", description=__doc__)
    parser.add_argument("--out", type=Path, help="write table, figures and chart into this folder")
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    options = parser.parse_args(arguments)
    effort = QUICK if options.quick else EFFORT
    keep_freed_memory()
    found = Found(environment())
    for case in _cases():
        print(case.name, flush=True)
        present = [engine for engine in case.engines if not engine.missing()]
        found.missing |= {one.name: one.missing() for one in case.engines if one.missing()}
        measured = found.cases[case.name] = measure(case.task, present, effort, case.reference)
        for name, peers, must, aim in case.goals:
            found.add(name, must, aim, measured.speedup(case.engines[0].name, peers))
    _add_own_ratios(found, effort)
    markdown = _markdown(found)
    print(markdown)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        _write(options.out, found, markdown)
    wrong = [reason for one in found.cases.values() for reason in one.wrong.values()]
    if wrong:
        raise SystemExit("\n".join(wrong))


def _add_own_ratios(found: Found, effort: Effort) -> None:
    """Of ours beside ours: two threads beside one, and a private step beside a plain one."""
    for members, batch in ((THOUSAND, 1), (MANY, 32)):
        run = ensemble_engines(members)[0].prepare(_task(batch))
        assert run is not None
        run.check()
        one, two = time_in_turns([_on_threads(run.call, n) for n in (1, 2)], effort)
        name = f"{members:,} LeNets, B={batch}: 2 threads beside 1"
        found.add(name, 1.9, 1.98, one.median / two.median)
    torch.set_num_threads(1)
    for batch in (64, 256):
        runs = [engine.prepare(_task(batch)) for engine in (PRIVATE[0], TRAIN_STEP)]
        timed: list[Timed] = []
        for run in runs:
            assert run is not None
            run.check()
            timed.append(partial(seconds_of, run.call))
        private, plain = time_in_turns(timed, effort)
        name = f"DP-SGD step, B={batch}: times the plain step"
        found.add(name, 1.6, 1.25, private.median / plain.median, at_most=True)
    if CLEAR.exists():
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            small, large = (_task(batch) for batch in (SMALL_BATCH, MEMORY_BATCH))
            memory = process.submit(peak_kibibytes, PRIVATE[0], small, large).result() / 1024
        name = f"DP-SGD step, B={MEMORY_BATCH}: MiB above weights and inputs"
        found.add(name, 50, 15, memory, unit="MiB", at_most=True)


def _on_threads(call: Callable[[], Any], threads: int) -> Timed:
    def timed(untimed: int, count: int) -> float:
        torch.set_num_threads(threads)
        return seconds_of(call, untimed, count)

    return timed


def _markdown(found: Found) -> str:
    goals = [
        [goal.name, goal.text(goal.must), goal.text(goal.aim), goal.text(value), goal.verdict(value)]
        for goal, value in found.goals
    ]
    parts = [
        f"# {TITLE}",
        f"{environment_text(found.environment)}. One thread unless said. The LeNet of 62,006 parameters, SGD "
        f"with momentum, by `python -m benchmarks.{NAME}`. A ratio is the other's time over ours.",
        table(["figure", "must", "aim", "measured", "verdict"], *goals),
    ]
    for name, measured in found.cases.items():
        rows = [_row(engine, timing) for engine, timing in measured.timings.items()]
        parts += [f"## {name}", table(["", "ms a call", "quartiles", "runs"], *rows)]
    wrong = [f"- {reason}" for one in found.cases.values() for reason in one.wrong.values()]
    if wrong:
        parts += ["Wrong results, and therefore not timed:", "\n".join(wrong)]
    if found.missing:
        parts.append("Not here: " + ", ".join(f"{name} ({why})" for name, why in found.missing.items()) + ".")
    return "\n\n".join([*parts, f"![{TITLE}]({NAME}.png)"]) + "\n"


def _row(engine: str, timing: Timing) -> list[str]:
    lower, upper = (significant(one * 1e3) for one in (timing.lower_quartile, timing.upper_quartile))
    return [engine, significant(timing.median * 1e3), f"{lower} to {upper}", str(timing.runs)]


def _write(out: Path, found: Found, markdown: str) -> None:
    from benchmarks.charts import Bars, bar_chart

    content = {
        "environment": found.environment,
        "goals": [
            {"name": goal.name, "must": goal.must, "aim": goal.aim, "measured": value, "unit": goal.unit}
            for goal, value in found.goals
        ],
        "cases": {
            name: {engine: asdict(timing) for engine, timing in one.timings.items()}
            for name, one in found.cases.items()
        },
    }
    (out / f"{NAME}.json").write_text(json.dumps(content, indent=2) + "\n")
    (out / f"{NAME}.md").write_text(markdown)
    ratios = [(goal, value) for goal, value in found.goals if not goal.at_most]
    bars = [Bars(goal.name, [value], goal.must, goal.aim) for goal, value in ratios]
    caption = f"medians, logarithmic axis; {environment_text(found.environment)}"
    title = f"{TITLE}: times as fast"
    (out / f"{NAME}.png").write_bytes(bar_chart(title, caption, {"": bars}, ["lenet_ext"]))


if __name__ == "__main__":
    main()
