"""Draws docs/images/layouts.png: how the kernels lay out their work in vector registers.

Run from anywhere: python docs/draw_layouts.py. The sizes are those of LeNet on AVX-512 (32 registers of 16
float32): its first convolution (3 to 6 channels), its second (6 to 16), the weight gradient of the first, and
its 2x2 max-pool.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

OUTPUT = Path(__file__).parent / "images/layouts.png"
# Of the Okabe-Ito palette, which colour-blind readers can tell apart.
ACCUMULATOR, VECTOR, BROADCAST = "#56b4e9", "#e69f00", "#009e73"
HEIGHT = 0.8
LANE = 0.11
REGISTER = 16 * LANE  # a register of 16 lanes


def draw_register(axes: Axes, x: float, y: float, color: str, label: str) -> None:
    axes.add_patch(Rectangle((x, y), REGISTER, HEIGHT, facecolor=color, edgecolor="black", linewidth=0.8))
    for lane in range(1, 16):
        axes.plot([x + lane * LANE] * 2, [y, y + 0.15], color="black", linewidth=0.4)
    axes.text(x + REGISTER / 2, y + HEIGHT * 0.55, label, ha="center", va="center", fontsize=7)


def draw_tile(axes: Axes, rows: list[str], columns: list[str], row_color: str, column_color: str) -> None:
    """A register tile: what multiplies its rows at the left, its columns on top, accumulators between."""
    pitch = REGISTER + 0.15
    for j, label in enumerate(columns):
        draw_register(axes, (j + 1) * pitch, 0, column_color, label)
    for i, label in enumerate(rows):
        y = -(i + 1.25)
        draw_register(axes, 0, y, row_color, label)
        for j in range(len(columns)):
            draw_register(axes, (j + 1) * pitch, y, ACCUMULATOR, "")


def finish(axes: Axes, title: str, note: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.text(0, -0.02, note, fontsize=7.5, transform=axes.transAxes, va="top")
    axes.autoscale_view()
    axes.set_axis_off()


def draw_contract_pixels(axes: Axes) -> None:
    rows = [f"weight of channel {channel}" for channel in range(6)]
    draw_tile(axes, rows, [f"pixels {16 * v}..{16 * v + 15}" for v in range(4)], BROADCAST, VECTOR)
    note = (
        "6 channels x 4 vectors = 24 accumulators, 4 registers for pixels, 1 for the broadcast weight: 29.\n"
        "A step (input channel, kernel row, kernel column) is 4 loads, 6 broadcasts, 24 FMAs."
    )
    finish(axes, "contract, lanes are pixels: few output channels (LeNet's first convolution)", note)


def draw_contract_channels(axes: Axes) -> None:
    draw_tile(axes, [f"pixel {pixel}" for pixel in range(10)], ["channels 0..15"], BROADCAST, VECTOR)
    note = (
        "10 pixels x 1 vector = 10 accumulators.\n"
        "A step is 1 load of packed weights,\n"
        "10 broadcasts of input values, 10 FMAs."
    )
    finish(axes, "contract, lanes are channels\n(LeNet's second convolution)", note)


def draw_dot(axes: Axes) -> None:
    rows = [f"output channel {channel}" for channel in range(6)]
    draw_tile(axes, rows, [f"input, tap {tap}" for tap in range(4)], VECTOR, VECTOR)
    note = (
        "An accumulator is 16 partial sums of one weight's gradient; both factors are 16 pixels of a row.\n"
        "6 x 4 = 24 accumulators, 6 registers for the gradients, 1 for the input: 31. "
        "The lanes are summed at the end."
    )
    finish(axes, "dot, lanes are the reduction: weight gradient with few channels", note)


def draw_max_pool(axes: Axes) -> None:
    pitch = REGISTER + 0.15
    for row in range(2):
        y = -2.5 * row
        for half in range(2):
            draw_register(axes, half * pitch, y, VECTOR, f"{row}: {16 * half}..{16 * half + 15}")
        for tap, name in enumerate(("even", "odd")):
            draw_register(axes, (tap + 2.4) * pitch, y, VECTOR, f"{name}: tap {2 * row + tap}")
        axes.annotate(
            "", ((2.4 * pitch) - 0.05, y + 0.4), (2 * pitch - 0.1, y + 0.4), arrowprops={"arrowstyle": "->"}
        )
    draw_register(axes, 2.4 * pitch, -5, ACCUMULATOR, "maximum")
    draw_register(axes, 3.4 * pitch, -5, ACCUMULATOR, "its argmax")
    axes.annotate("", (3.3 * pitch, -4.1), (3.3 * pitch, -2.6), arrowprops={"arrowstyle": "->"})
    note = (
        "Rows 0 and 1, 16 windows side by side. "
        "Each tap in scan order: compare (greater, or NaN), select the value,\n"
        "select the tap's number. The argmax is stored as a byte and is all that backward needs."
    )
    finish(axes, "max_pool2d 2x2, contiguous: lanes are windows", note)


def main() -> None:
    figure = Figure(figsize=(13, 7), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(2, 2, width_ratios=[1.6, 1])
    draw_contract_pixels(panels[0, 0])
    draw_contract_channels(panels[0, 1])
    draw_dot(panels[1, 0])
    draw_max_pool(panels[1, 1])
    keys = {"accumulator": ACCUMULATOR, "loaded as a vector": VECTOR, "one value broadcast": BROADCAST}
    patches = [Rectangle((0, 0), 1, 1, facecolor=color, edgecolor="black") for color in keys.values()]
    figure.legend(patches, list(keys), loc="outside upper center", ncols=3, fontsize=9)
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)


if __name__ == "__main__":
    main()
