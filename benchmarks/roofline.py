"""Measures the fused engine stage by stage on one thread and draws docs/images/roofline.png.

`python -m benchmarks.roofline` also prints the figures as a Markdown table. A stage of the LeNet is fused by
itself, B=256; FLOP are those of the plain method, so a method that needs fewer (Winograd's, or the sparse
gradients behind a pool) may lie above the roof. Bytes are those of images, outputs and parameters, each once,
and in backward of their gradients too.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch.nn import Conv2d, Linear, MaxPool2d, Module, ReLU, Sequential

import lenet_ext
from benchmarks.environment import environment
from benchmarks.peak import measured_peak
from benchmarks.tables import table
from benchmarks.tasks import count_operations
from benchmarks.timing import Call, Effort, keep_freed_memory, seconds_of, time_in_turns

OUTPUT = Path(__file__).parents[1] / "docs/images/roofline.png"
BATCH = 256
EFFORT = Effort(seconds=0.5, fewest=25)
STAGES: dict[str, tuple[tuple[int, ...], list[Module]]] = {
    "conv1 + relu + pool": ((3, 32, 32), [Conv2d(3, 6, 5), ReLU(), MaxPool2d(2)]),
    "conv2 + relu + pool": ((6, 14, 14), [Conv2d(6, 16, 5), ReLU(), MaxPool2d(2)]),
    "fc1 + relu": ((400,), [Linear(400, 120), ReLU()]),
    "fc2 + relu": ((120,), [Linear(120, 84), ReLU()]),
}
STYLES = (("forward", "#0072b2", "o", 5), ("backward", "#d55e00", "s", -12))
COLUMNS = "stage", "direction", "us per image", "GFLOP/s of the plain method", "of the peak", "FLOP per byte"


class Point(NamedTuple):
    stage: str
    direction: str
    microseconds: float  # of an image
    rate: float  # 10^9 operations a second
    intensity: float  # operations for each byte


def points(stage: str) -> list[Point]:
    shape, layers = STAGES[stage]
    model, images = Sequential(*layers), torch.randn(BATCH, *shape)
    fused = lenet_ext.fuse(model, images)
    images.requires_grad_(stage != next(iter(STAGES)))  # the first layer's images want no gradient
    output = fused(images)
    slope = torch.randn_like(output)
    wanted = [*fused.parameters(), *([images] if images.requires_grad else [])]
    operations = count_operations(model, images[:1])
    weights = sum(one.numel() for one in model.parameters())
    moved = 4 * (images[0].numel() + output[0].numel() + weights / BATCH)

    def backward() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(output, wanted, slope, retain_graph=True)

    work: dict[str, tuple[Call, int, float]] = {
        "forward": (torch.no_grad()(partial(fused, images)), operations, moved),
        "backward": (backward, operations * (1 + images.requires_grad), 2 * moved),
    }
    timings = time_in_turns([partial(seconds_of, call) for call, _, _ in work.values()], EFFORT)
    return [
        Point(stage, way, timing.median / BATCH * 1e6, count * BATCH / timing.median / 1e9, count / size)
        for timing, (way, (_, count, size)) in zip(timings, work.items(), strict=True)
    ]


def measured_bandwidth() -> float:
    """10^9 bytes a second, read and written, of a copy of 256 MiB."""
    source = torch.ones(64 * 1024 * 1024)
    target = torch.empty_like(source)
    (timing,) = time_in_turns([partial(seconds_of, lambda: target.copy_(source))], EFFORT)
    return 2 * 4 * source.numel() / timing.median / 1e9


def draw(measured: list[Point], peak: float, bandwidth: float) -> None:
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.subplots()
    ridge = peak / bandwidth
    axes.plot([0.5, ridge, 200], [0.5 * bandwidth, peak, peak], color="black", linewidth=1.2)
    axes.text(ridge, peak * 1.06, f"FMA peak {peak:.0f} GFLOP/s", fontsize=8)
    axes.text(2, 2.4 * bandwidth, f"copy {bandwidth:.0f} GB/s", ha="right", fontsize=8)
    for direction, color, marker, height in STYLES:
        shown = [point for point in measured if point.direction == direction]
        places = [(point.intensity, point.rate) for point in shown]
        axes.scatter(*zip(*places, strict=True), color=color, marker=marker, label=direction, zorder=3)
        for point, place in zip(shown, places, strict=True):
            side, align = (-6, "right") if point.intensity >= 50 else (6, "left")
            text: dict[str, Any] = {"textcoords": "offset points", "ha": align, "fontsize": 8, "color": color}
            axes.annotate(point.stage.split()[0], place, (side, height), **text)
    axes.set(xscale="log", yscale="log", xlim=(0.5, 200), ylim=(peak / 20, 2 * peak))
    axes.set_xlabel("FLOP of the plain method per byte of images, outputs and parameters")
    axes.set_ylabel("GFLOP/s of the plain method")
    where = "{cpu}, {date}".format_map(environment())
    axes.set_title(f"Stages of the LeNet in the fused engine, B={BATCH}, one thread\n{where}", fontsize=10)
    axes.grid(True, which="both", linewidth=0.3)
    axes.legend(loc="lower right")
    figure.savefig(OUTPUT, dpi=110)


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peak = measured_peak(1)
    if peak is None:
        raise SystemExit("the roof cannot be measured: no C++ compiler")
    bandwidth = measured_bandwidth()
    measured = [point for stage in STAGES for point in points(stage)]
    draw(measured, peak, bandwidth)
    rows = [
        [stage, direction, f"{us:.2f}", f"{rate:.0f}", f"{rate / peak:.0%}", f"{intensity:.1f}"]
        for stage, direction, us, rate, intensity in measured
    ]
    print(table(COLUMNS, *rows, text=(0, 1)))
    print(f"\nFMA peak {peak:.0f} GFLOP/s, copy {bandwidth:.1f} GB/s.")


if __name__ == "__main__":
    main()
