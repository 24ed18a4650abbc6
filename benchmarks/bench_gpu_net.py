"""Times the fused LeNet on a GPU beside native torch, and writes JSON: bench_gpu_net.py FILE [--device cpu]

Training steps (SGD with momentum, cross entropy) and inference, each also by native torch eagerly, as a CUDA
graph of the eager kernels, and by torch.compile(mode="max-autotune"). Native torch computes in full float32
(no TF32), as our kernels do, with the fastest algorithms cuDNN finds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from bench_gpu import FEWEST_RUNS, RUN_SECONDS, seconds_of
from torch import Tensor

import lenet_ext
from lenet_ext.benchmark.cases import INFERENCE, TRAINING_STEP, dense_operations
from lenet_ext.benchmark.measure import difference

BATCHES = (64, 256, 1024, 16384)
PEAK_BATCH = 65536  # inference of ours alone, as a share of the arithmetic that the GPU can do
OURS, EAGER, GRAPH, COMPILED = "lenet_ext", "eager torch", "graph of eager", "torch.compile"
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
CHECKED_STEPS = 5
TOLERANCE = 1e-3  # of losses and logits after a few steps: rounding, and what it grows to
LANES, OPERATIONS = 128, 2  # float32 units of a multiprocessor, each with an addition and a multiplication

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Row:
    """Medians over `runs` of microseconds per call; difference: of our results from eager torch's."""

    what: str
    batch: int
    microseconds: dict[str, float]
    runs: int
    difference: float
    is_right: bool
    share_of_peak: float | None = None


def inputs(batch: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 32, 32, generator=generator)
    return images.to(device), torch.randint(10, (batch,), generator=generator).to(device)


def network(device: str) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return lenet_ext.LeNet(layers=torch.nn).to(device)


def eager_step(device: str, images: Tensor, labels: Tensor, compiled: bool = False) -> Call:
    model = network(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    forward = torch.compile(model, mode="max-autotune") if compiled else model

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def graph_of(call: Call, calls_before: int) -> Call:
    """The kernels of a call, after some calls on the stream that captures them."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(calls_before):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def sides(what: str, batch: int, device: str) -> dict[str, Call]:
    images, labels = inputs(batch, device)
    fused = lenet_ext.fuse(network(device), images[:1])
    on_gpu = device != "cpu"
    if what == TRAINING_STEP:
        step = lenet_ext.TrainStep(fused, lr=LEARNING_RATE, momentum=MOMENTUM)
        calls: dict[str, Call] = {
            OURS: lambda: step(images, labels),
            EAGER: eager_step(device, images, labels),
        }
        if on_gpu:
            calls[GRAPH] = graph_of(eager_step(device, images, labels), 3)
            calls[COMPILED] = eager_step(device, images, labels, compiled=True)
        return calls
    model = network(device)
    calls = {OURS: lambda: fused(images), EAGER: lambda: model(images)}
    if on_gpu:
        compiled = torch.compile(network(device), mode="max-autotune")
        calls[OURS] = graph_of(calls[OURS], 3)
        calls[GRAPH] = graph_of(calls[EAGER], 3)
        calls[COMPILED] = lambda: compiled(images)
    return calls


def largest_difference(calls: dict[str, Call]) -> float:
    """Between our results and eager torch's, over the first calls: of a step these are losses."""
    pairs = [(calls[OURS]().clone(), calls[EAGER]().clone()) for _ in range(CHECKED_STEPS)]
    return max(difference(ours, eager) for ours, eager in pairs)


def measure(what: str, batch: int, device: str, seconds: float) -> Row:
    """All sides in alternating runs, for about `seconds`."""
    with torch.set_grad_enabled(what == TRAINING_STEP):
        calls = sides(what, batch, device)
        distance = largest_difference(calls)
        counts: dict[str, int] = {}
        for name, call in calls.items():
            seconds_of(call, 3, device)
            counts[name] = max(1, round(RUN_SECONDS / (seconds_of(call, 3, device) / 3)))
        times: dict[str, list[float]] = {name: [] for name in calls}
        end = perf_counter() + seconds
        while len(times[OURS]) < FEWEST_RUNS or perf_counter() < end:
            for name, call in calls.items():
                times[name].append(seconds_of(call, counts[name], device) / counts[name] * 1e6)
    medians = {name: median(sample) for name, sample in times.items()}
    return Row(what, batch, medians, len(times[OURS]), distance, distance <= TOLERANCE)


def peak_row(batch: int, device: str, seconds: float) -> Row:
    """Our inference of many images, as a share of the float32 peak."""
    images, _ = inputs(batch, device)
    model = network(device)
    fused = lenet_ext.fuse(model, images[:1])
    with torch.no_grad():
        distance = difference(fused(images[-64:]), model(images[-64:]))
        times: list[float] = []
        end = perf_counter() + seconds
        while len(times) < FEWEST_RUNS or perf_counter() < end:
            times.append(seconds_of(lambda: fused(images), 1, device))
    rate = dense_operations(model, tuple(images.shape), training=False) / median(times)
    peak = peak_operations() if device != "cpu" else None
    share = rate / peak if peak else None
    medians = {OURS: median(times) * 1e6}
    return Row(INFERENCE, batch, medians, len(times), distance, distance <= TOLERANCE, share)


def peak_operations() -> float | None:
    """Float32 operations per second at the highest clock that the driver names."""
    command = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    return float(printed.split()[0]) * 1e6 * multiprocessors * LANES * OPERATIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", default="cuda", help="cpu only tries the program out")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each case")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    on_gpu = arguments.device != "cpu"
    batches, peak_batch = (BATCHES, PEAK_BATCH) if on_gpu else (BATCHES[:1], BATCHES[0])
    rows = []

    def add(row: Row) -> None:
        rows.append(asdict(row))
        print(json.dumps(rows[-1]), flush=True)
        # After each case: what was measured is kept if the next one fails.
        arguments.file.write_text(json.dumps(rows, indent=2) + "\n")

    for what in (TRAINING_STEP, INFERENCE):
        for batch in batches:
            add(measure(what, batch, arguments.device, arguments.seconds))
    add(peak_row(peak_batch, arguments.device, arguments.seconds))


if __name__ == "__main__":
    main()
