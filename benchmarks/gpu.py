"""Times LeNet's layers, or the fused LeNet, on a GPU beside native torch, and writes JSON.

`python -m benchmarks.gpu {layers,networks} FILE [--device cpu]` needs only torch. Native torch computes in
full float32 (no TF32), as our kernels do, with the fastest algorithms that cuDNN finds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines import EAGER, FUSE, LAYERS, TRAIN_STEP, Engine, Run, compiled_run
from benchmarks.measure import measure
from benchmarks.models import LENET, LENET_LAYERS, lenet_layer_tasks, network_tasks
from benchmarks.tasks import INFERENCE, Task
from benchmarks.timing import Effort

LENET_BATCHES = (64, 256, 1024, 16384)
LAYER_BATCH = 1024
PEAK_BATCH = 65536  # inference of ours alone, as a share of the arithmetic that the GPU can do
# Runs of so many seconds time kernels and launches, not the clock, which waits for the GPU.
RUN_SECONDS = 2e-3
FEWEST_RUNS = 5
CALLS_BEFORE_CAPTURE = 3
LANES, OPERATIONS = 128, 2  # float32 units of a multiprocessor, each with an addition and a multiplication


@dataclass(frozen=True)
class Replay:
    """A call of a CUDA graph. It keeps the captured run, whose images and labels the graph reads."""

    graph: torch.cuda.CUDAGraph
    run: Run

    def __call__(self) -> None:
        self.graph.replay()


def graph_run(task: Task, prepare: Callable[[Task], Run | None]) -> Run | None:
    """A CUDA graph of another run, captured once that has been checked."""
    run, graph = prepare(task), torch.cuda.CUDAGraph()
    if run is None:
        return None

    def check() -> Mapping[str, Any]:
        results = run.check()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(CALLS_BEFORE_CAPTURE):
                run.call()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            run.call()
        return results

    return Run(Replay(graph, run), check)


def _graph_of(engine: Engine) -> Engine:
    prepare = partial(graph_run, prepare=engine.prepare)
    return Engine(f"graph of {engine.name}", prepare, ours=engine.ours)


FUSE_GRAPH = _graph_of(FUSE)
NETWORK_ENGINES = (
    *(TRAIN_STEP, FUSE_GRAPH, EAGER, _graph_of(EAGER)),  # TRAIN_STEP makes a graph itself
    # With CUDA graphs; "max-autotune" searched for more than 45 s for one of the nine tasks.
    Engine("torch.compile", partial(compiled_run, mode="reduce-overhead", dynamic=False)),
)


def work(what: str, device: str) -> list[tuple[Task, tuple[Engine, ...]]]:
    """Tasks, each with the engines that it is timed on."""
    batches = LENET_BATCHES if device != "cpu" else LENET_BATCHES[:1]
    lenet = network_tasks(LENET, batches, device=device)
    if what == "layers":
        batch = LAYER_BATCH if device != "cpu" else batches[0]
        layers = [task for name in LENET_LAYERS for task in lenet_layer_tasks(name, (batch,), device)]
        return [(task, (LAYERS, EAGER)) for task in (*lenet, *layers)]
    if device == "cpu":
        return [(task, (TRAIN_STEP, FUSE, EAGER)) for task in lenet]
    largest = Task(model=LENET, batch=PEAK_BATCH, direction=INFERENCE, device=device)
    return [*((task, NETWORK_ENGINES) for task in lenet), (largest, (FUSE_GRAPH,))]


def peak_gigaflops() -> float | None:
    """10^9 float32 operations a second at the highest clock that the driver names."""
    command = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    return float(printed.split()[0]) * 1e-3 * multiprocessors * LANES * OPERATIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("layers", "networks"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", default="cuda", help="cpu only tries the program out")
    parser.add_argument("--seconds", type=float, default=0.25, help="for each task on each engine")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    effort = Effort(arguments.seconds, FEWEST_RUNS, RUN_SECONDS)
    peak = None if arguments.device == "cpu" else peak_gigaflops()
    rows = []
    for task, engines in work(arguments.what, arguments.device):
        measured = measure(task, engines, effort)
        took_part = [*measured.timings, *measured.wrong]
        ours = next(engine.name for engine in engines if engine.ours and engine.name in took_part)
        rows.append({**measured.record(), "ours": ours, "peak_gigaflops": peak})
        print(json.dumps(rows[-1]), flush=True)
        # After each: what was measured is kept if the next one fails.
        arguments.file.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
