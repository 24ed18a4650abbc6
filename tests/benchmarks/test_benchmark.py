"""The benchmarks: what they call, refuse and write. Never how fast anything is."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import python
from torch import Tensor

from lenet_ext import benchmark, functional
from lenet_ext.benchmark import measure as measure_module
from lenet_ext.benchmark import run as run_module
from lenet_ext.benchmark.cases import (
    BACKWARD,
    FORWARD,
    INFERENCE,
    TRAINING_STEP,
    Case,
    LeNetCase,
    OperatorCase,
)
from lenet_ext.benchmark.environment import environment
from lenet_ext.benchmark.measure import Measurement, WrongResult, measure
from lenet_ext.benchmark.reports import REPORTS
from lenet_ext.benchmark.tables import report_markdown
from lenet_ext.benchmark.targets import Target, target_results
from lenet_ext.benchmark.timing import Effort, Timing, time_side_by_side

BRIEF = Effort(seconds=0, fewest=3, most=3)
CONV2D = OperatorCase(
    name="conv", batch=2, direction=FORWARD, operator="conv2d", input=(3, 7, 6), weight=(4, 3, 3, 3)
)
POOL = OperatorCase(
    name="pool",
    batch=2,
    direction=FORWARD,
    operator="max_pool2d",
    input=(3, 6, 6),
    arguments={"kernel_size": 2},
)


@pytest.mark.parametrize(
    "case",
    [
        CONV2D,
        replace(CONV2D, direction=BACKWARD),
        replace(CONV2D, direction=BACKWARD, input_gradient=False, memory_format=torch.channels_last),
        replace(POOL, direction=BACKWARD),
        LeNetCase(batch=2, direction=INFERENCE),
        LeNetCase(batch=2, direction=TRAINING_STEP),
    ],
    ids=lambda case: f"{case.name} {case.direction}",
)
def test_a_case_is_checked_and_timed(case: Case, threads: None) -> None:
    torch.set_num_threads(1)
    result = measure(case, 2, BRIEF)
    assert torch.get_num_threads() == 1
    assert torch.is_grad_enabled()
    assert (result.case, result.threads) == (case, 2)
    for timing in (result.ours, result.native):
        assert timing.runs == 3
        assert timing.calls_per_run >= 1
        assert 0 < timing.lower_quartile <= timing.median <= timing.upper_quartile
    assert result.speedup == result.native.median / result.ours.median


@pytest.mark.parametrize(
    "spoil",
    [
        lambda output: output + 1e-3 * output.abs().max(),
        lambda output: output * math.nan,
        lambda output: output[:1],
    ],
    ids=["off", "NaN", "another shape"],
)
@pytest.mark.parametrize("case", [CONV2D, POOL], ids=lambda case: case.name)
def test_a_wrong_result_is_never_timed(
    case: OperatorCase, spoil: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(functional, case.operator)
    monkeypatch.setattr(functional, case.operator, lambda *args, **kwargs: spoil(right(*args, **kwargs)))
    monkeypatch.setattr(measure_module, "time_side_by_side", lambda *_: pytest.fail("it was timed"))
    with pytest.raises(WrongResult, match=rf"{case.name}, batch 2, forward: result 0 differs"):
        measure(case, 1, BRIEF)


def test_a_wrong_gradient_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_bias_gradient(
        input: Tensor, weight: Tensor, bias: Tensor, *args: int, **kwargs: int
    ) -> Tensor:
        return torch.nn.functional.conv2d(input, weight, bias.detach() + 0 * bias, *args, **kwargs)

    monkeypatch.setattr(functional, "conv2d", without_bias_gradient)
    monkeypatch.setattr(measure_module, "time_side_by_side", lambda *_: pytest.fail("it was timed"))
    with pytest.raises(WrongResult, match="result 3 differs"):
        measure(replace(CONV2D, direction=BACKWARD), 1, BRIEF)


def test_runs_alternate() -> None:
    order: list[str] = []
    times = time_side_by_side(lambda: order.append("a"), lambda: order.append("b"), BRIEF)
    repeats = [timing.calls_per_run for timing in times]
    assert min(repeats) > 1  # a run of one such call would time the clock
    one_round = ["a"] * (1 + repeats[0]) + ["b"] * (1 + repeats[1])  # the first call of a run is untimed
    assert order[-3 * len(one_round) :] == 3 * one_round


def test_operations_are_those_of_the_layers() -> None:
    """Counted by hand: 2 * 28 * 28 * 6 * 75, 2 * 10 * 10 * 16 * 150, and the three linear layers."""
    conv1, conv2, linears = 705_600, 480_000, 2 * (400 * 120 + 120 * 84 + 84 * 10)
    forward = conv1 + conv2 + linears
    assert LeNetCase(batch=3, direction=INFERENCE).operations == 3 * forward
    assert LeNetCase(batch=3, direction=TRAINING_STEP).operations == 3 * (3 * forward - conv1)
    operations = {
        (case.name[:5], case.direction, case.batch): case.operations for case in REPORTS["conv2d"].cases
    }
    assert operations["conv1", FORWARD, 64] == 64 * conv1
    assert operations["conv1", BACKWARD, 64] == 64 * 2 * conv1
    assert operations["conv2", BACKWARD, 64] == 64 * 3 * conv2
    assert POOL.operations is None


def test_cases_are_told_apart() -> None:
    for report in REPORTS.values():
        keys = [(case.name, case.batch, case.direction) for case in report.cases]
        assert len(set(keys)) == len(keys)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures nothing: ours takes 1 us, native torch twice as many microseconds as there are threads."""

    def fake(case: Case, threads: int, effort: Effort) -> Measurement:
        ours, native = (Timing(us * 1e-6, us * 1e-6, us * 1e-6, effort.fewest, 1) for us in (1, 2 * threads))
        return Measurement(case, threads, ours, native)

    monkeypatch.setattr(run_module, "measure", fake)
    monkeypatch.setattr(run_module, "keep_freed_memory", lambda: None)  # it would outlive the test


@pytest.mark.usefixtures("made_up")
def test_all_reports_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.run_benchmarks(quick=True, out=tmp_path, only=tuple(REPORTS))
    names = [*REPORTS, "summary"]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("md", "json", "png")
    }
    printed = capsys.readouterr().out
    for name in names:
        text = (tmp_path / f"{name}.md").read_text()
        assert torch.__version__ in text
        assert text.partition("\n![")[0] in printed
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert {"date", "cpu", "isa", "torch"} <= content["environment"].keys()
    record = json.loads((tmp_path / "conv2d.json").read_text())["measurements"][0]
    assert record["speedup"] == pytest.approx(2)
    assert record["threads"] == 1
    targets = json.loads((tmp_path / "summary.json").read_text())["targets"]
    first_pool = next(one for one in targets if one["target"] == "pool1 forward, B=64")
    assert first_pool["verdict_by_threads"] == {"1": "missed", "2": "missed"}
    mean = next(one for one in targets if one["target"] == "layer suite, geometric mean")
    assert mean["speedup_by_threads"] == pytest.approx({"1": 2, "2": 4})
    assert mean["verdict_by_threads"] == {"1": "aim met", "2": "aim met"}


@pytest.mark.usefixtures("made_up")
def test_a_script_runs_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench_relu.py", "--quick", "--out", str(tmp_path / "new")])
    run_module.main("relu")
    assert REPORTS["relu"].title in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"relu.md", "relu.json", "relu.png"}


def test_the_worst_case_and_the_mean_are_of_the_suite() -> None:
    timings = {us: Timing(us, us, us, 1, 1) for us in (1.0, 2.0, 8.0)}
    measurements = {
        name: [Measurement(case, 1, timings[1.0], timings[8.0]) for case in report.cases]
        for name, report in REPORTS.items()
    }
    half = len(REPORTS["suite"].cases) // 2
    measurements["suite"][:half] = [replace(one, native=timings[2.0]) for one in measurements["suite"][:half]]
    reached = {result.target.name: result.speedups[1] for result in target_results(measurements)}
    assert reached["layer suite, geometric mean"] == pytest.approx(4)
    assert reached["layer suite, worst case"] == 2
    assert reached["LeNet training step, B=1"] == 8


@pytest.mark.parametrize(
    ("speedup", "verdict"), [(1.99, "missed"), (2, "must met"), (2.99, "must met"), (3, "aim met")]
)
def test_verdict(speedup: float, verdict: str) -> None:
    assert Target("", must=2, aim=3, measured=lambda *_: speedup).verdict(speedup) == verdict


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has this setting")
def test_freed_memory_is_kept() -> None:
    """In processes of their own: which share of 64 MiB leaves the resident pages as they are freed.

    Page faults would say less: an aligned block may not fit where one of its own size was freed, and then
    takes new pages although nothing was given back.
    """
    program = """
import resource, statistics
import torch
from lenet_ext.benchmark.timing import keep_freed_memory
keep_freed_memory()
def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
def share_given_back():
    block = torch.ones(1 << 24)
    size, before = block.nbytes, resident_bytes()
    del block
    return (before - resident_bytes()) / size
print(statistics.median(share_given_back() for _ in range(5)))
"""
    assert float(python("-c", program).stdout) < 0.1
    without = program.replace("\nkeep_freed_memory()", "")
    assert float(python("-c", without).stdout) > 0.9


@pytest.mark.parametrize(("upper_quartile", "text"), [(1.4, " 2.00x |"), (1.6, "~2.00x |")])
def test_unsteady_times_are_marked(upper_quartile: float, text: str) -> None:
    steady, other = Timing(1, 1, 1, 9, 1), Timing(2, 1, upper_quartile, 9, 1)
    markdown = report_markdown(REPORTS["relu"], [Measurement(POOL, 1, steady, other)], environment())
    assert text in markdown
    assert ("1 of 1 cases unsteady" in markdown) == ("~" in text)
