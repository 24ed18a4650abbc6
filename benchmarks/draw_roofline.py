"""Measures the fused engine stage by stage on one thread and draws docs/images/roofline.png.

Run from anywhere: python benchmarks/draw_roofline.py. It also prints the figures as a Markdown table. A stage
of the LeNet is fused by itself, B=256; FLOP are those of the plain method, so a method that needs fewer
(Winograd's, or the sparse gradients behind a pool) may lie above the roof. Bytes are those of images, outputs
and parameters, each once, and in backward of their gradients too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

import lenet_ext
from lenet_ext.benchmark.cases import dense_operations
from lenet_ext.benchmark.environment import Environment, environment
from lenet_ext.benchmark.peers.peak import measured_peak
from lenet_ext.benchmark.timing import FULL, keep_freed_memory, time_in_turns

OUTPUT = Path(__file__).parents[1] / "docs/images/roofline.png"
BATCH = 256
STAGES: dict[str, tuple[tuple[int, ...], list[nn.Module]]] = {
    "conv1 + relu + pool": ((3, 32, 32), [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)]),
    "conv2 + relu + pool": ((6, 14, 14), [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]),
    "fc1 + relu": ((400,), [nn.Linear(400, 120), nn.ReLU()]),
    "fc2 + relu": ((120,), [nn.Linear(120, 84), nn.ReLU()]),
}
FORWARD, BACKWARD = "forward", "backward"
COLORS = {FORWARD: "#0072b2", BACKWARD: "#d55e00"}


@dataclass(frozen=True)
class Point:
    stage: str
    direction: str
    operations: int  # of an image
    bytes: float
    microseconds: float  # of an image

    @property
    def rate(self) -> float:
        """10^9 operations a second."""
        return self.operations / self.microseconds / 1e3

    @property
    def intensity(self) -> float:
        return self.operations / self.bytes


def points(stage: str) -> list[Point]:
    shape, layers = STAGES[stage]
    model = nn.Sequential(*layers)
    images = torch.randn(BATCH, *shape)
    fused = lenet_ext.fuse(model, images)
    images.requires_grad_(stage != next(iter(STAGES)))  # the first layer's images want no gradient
    output = fused(images)
    slope = torch.randn_like(output)
    wanted = [*fused.parameters(), *([images] if images.requires_grad else [])]

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return fused(images)

    def backward() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(output, wanted, slope, retain_graph=True)

    calls: list[Callable[[], object]] = [forward, backward]
    operations = dense_operations(model, (1, *shape), training=False)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    moved = 4 * (images[0].numel() + output[0].numel() + parameters / BATCH)
    gradients = 2 if images.requires_grad else 1
    counts = {FORWARD: operations, BACKWARD: gradients * operations}
    sizes = {FORWARD: moved, BACKWARD: 2 * moved}
    timings = time_in_turns(calls, FULL)
    return [
        Point(stage, direction, counts[direction], sizes[direction], timing.median / BATCH * 1e6)
        for direction, timing in zip((FORWARD, BACKWARD), timings, strict=True)
    ]


def measured_bandwidth() -> float:
    """10^9 bytes a second, read and written, of a copy of 256 MiB."""
    source = torch.ones(64 * 1024 * 1024)
    target = torch.empty_like(source)
    timing = time_in_turns([lambda: target.copy_(source)], FULL)[0]
    return 2 * 4 * source.numel() / timing.median / 1e9


def draw(measured: list[Point], peak: float, bandwidth: float, machine: Environment) -> None:
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.subplots()
    ridge = peak / bandwidth
    axes.plot([0.5, ridge, 200], [0.5 * bandwidth, peak, peak], color="black", linewidth=1.2)
    axes.text(ridge, peak * 1.06, f"FMA peak {peak:.0f} GFLOP/s", fontsize=8)
    axes.text(2, 2.4 * bandwidth, f"copy {bandwidth:.0f} GB/s", ha="right", fontsize=8)
    for direction, marker in ((FORWARD, "o"), (BACKWARD, "s")):
        of_direction = [point for point in measured if point.direction == direction]
        axes.scatter(
            [point.intensity for point in of_direction],
            [point.rate for point in of_direction],
            color=COLORS[direction],
            marker=marker,
            label=direction,
            zorder=3,
        )
        for point in of_direction:
            right = point.intensity < 50
            offset = (6 if right else -6, 5 if direction == FORWARD else -12)
            axes.annotate(
                point.stage.split()[0],
                (point.intensity, point.rate),
                offset,
                textcoords="offset points",
                ha="left" if right else "right",
                fontsize=8,
                color=COLORS[direction],
            )
    axes.set(xscale="log", yscale="log", xlim=(0.5, 200), ylim=(10, 250))
    axes.set_xlabel("FLOP of the plain method per byte of images, outputs and parameters")
    axes.set_ylabel("GFLOP/s of the plain method")
    title = f"Stages of the LeNet in the fused engine, B={BATCH}, one thread\n{machine.cpu}, {machine.date}"
    axes.set_title(title, fontsize=10)
    axes.grid(True, which="both", linewidth=0.3)
    axes.legend(loc="lower right")
    OUTPUT.parent.mkdir(exist_ok=True)
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
    draw(measured, peak, bandwidth, environment())
    print("| stage | direction | us per image | GFLOP/s of the plain method | of the peak | FLOP per byte |")
    print("|:--|:--|--:|--:|--:|--:|")
    for point in measured:
        figures = (
            f"{point.microseconds:.2f} | {point.rate:.0f} | {point.rate / peak:.0%} | {point.intensity:.1f}"
        )
        print(f"| {point.stage} | {point.direction} | {figures} |")
    print(f"\nFMA peak {peak:.0f} GFLOP/s, copy {bandwidth:.1f} GB/s.")


if __name__ == "__main__":
    main()
