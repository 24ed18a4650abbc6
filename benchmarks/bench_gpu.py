"""Times the layers on a GPU beside native torch's, and writes JSON: bench_gpu.py FILE [--device cpu]

Native torch computes in full float32 (no TF32), as our kernels do, with the fastest algorithms cuDNN finds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from lenet_ext.benchmark.cases import INFERENCE, NATIVE, OURS, TRAINING_STEP, Case, LeNetCase
from lenet_ext.benchmark.measure import difference
from lenet_ext.benchmark.reports import OPERATOR_BATCHES, REPORTS
from lenet_ext.benchmark.timing import Call

LENET_BATCHES = (64, 256, 1024, 16384)
LAYER_BATCH = 1024
# One run is as many calls as fill this, so that launches, not the clock, are what is timed.
RUN_SECONDS = 2e-3
FEWEST_RUNS = 5


@dataclass(frozen=True)
class Row:
    """Medians over `runs` of microseconds per call; difference: from native torch, of the largest value."""

    case: str
    batch: int
    direction: str
    ours: float
    native: float
    speedup: float
    runs: int
    difference: float
    is_right: bool


def layer_cases(device: str, batch: int) -> Iterator[Case]:
    """The layers of the LeNet, forward and backward; images in both memory formats."""
    for name in ("conv2d", "max_pool2d", "linear", "relu"):
        for case in REPORTS[name].cases:
            if case.batch == max(OPERATOR_BATCHES):
                yield replace(case, batch=batch, device=device)


def seconds_of(call: Call, calls: int, device: str) -> float:
    """From the first of `calls` calls to the end of the last one's kernels."""
    if device == "cpu":
        begin = perf_counter()
        for _ in range(calls):
            call()
        return perf_counter() - begin
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) * 1e-3


def measure(case: Case, seconds: float) -> Row:
    """Both sides in alternating runs, for about `seconds`."""
    with torch.set_grad_enabled(case.with_autograd):
        sides = [case.call(OURS), case.call(NATIVE)]
        distance = max(
            difference(ours, native) for ours, native in zip(*(call() for call in sides), strict=True)
        )
        counts = []
        for call in sides:
            seconds_of(call, 3, case.device)
            counts.append(max(1, round(RUN_SECONDS / (seconds_of(call, 3, case.device) / 3))))
        times: list[list[float]] = [[], []]
        end = perf_counter() + seconds
        while len(times[0]) < FEWEST_RUNS or perf_counter() < end:
            for call, calls, sample in zip(sides, counts, times, strict=True):
                sample.append(seconds_of(call, calls, case.device) / calls * 1e6)
    ours, native = (median(sample) for sample in times)
    return Row(
        *(case.name, case.batch, case.direction, ours, native, native / ours),
        *(len(times[0]), distance, distance <= case.tolerance),
    )


def started(description: str | None) -> argparse.Namespace:
    """The arguments of a benchmark, whose native side is set to full float32 and cuDNN's fastest."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", default="cuda", help="cpu only tries the program out")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each case")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    return parser.parse_args()


def save(rows: Iterable[Any], file: Path) -> None:
    """Writes each row as soon as it is there: what was measured is kept if the next one fails."""
    measured = []
    for row in rows:
        measured.append(asdict(row))
        print(json.dumps(measured[-1]), flush=True)
        file.write_text(json.dumps(measured, indent=2) + "\n")


def main() -> None:
    arguments = started(__doc__)
    on_gpu = arguments.device != "cpu"
    batches = LENET_BATCHES if on_gpu else LENET_BATCHES[:1]
    cases: list[Case] = [
        LeNetCase(batch=batch, direction=direction, device=arguments.device)
        for direction in (TRAINING_STEP, INFERENCE)
        for batch in batches
    ]
    cases += layer_cases(arguments.device, LAYER_BATCH if on_gpu else batches[0])
    save((measure(case, arguments.seconds) for case in cases), arguments.file)


if __name__ == "__main__":
    main()
