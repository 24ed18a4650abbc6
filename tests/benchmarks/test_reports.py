"""What the benchmarks refuse, write and make of what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as program
from benchmarks import roofline
from benchmarks.engines import EAGER, FUSE_SGD, LAYERS, TRAIN_STEP, Engine, torch_run
from benchmarks.environment import environment
from benchmarks.graph_engines import ONNX_RUNTIME
from benchmarks.measure import Measurement
from benchmarks.models import LENET
from benchmarks.reports import PEERS, REPORTS, THREADS, Findings
from benchmarks.tables import report_markdown
from benchmarks.targets import TARGETS, Target
from benchmarks.tasks import INFERENCE, Task
from benchmarks.timing import Effort, Timing

ALL = {target.name: target for targets in TARGETS for target in targets.targets}
MEMORY = {TRAIN_STEP.name: 5.0, FUSE_SGD.name: 30.0, EAGER.name: 100.0}


def measured(task: Task, engines: Sequence[Engine], effort: Effort, **_: object) -> Measurement:
    """Made up: ours take a second, torch eager 9, ONNX Runtime 3; half of it on two threads."""
    seconds = {EAGER.name: 9.0, ONNX_RUNTIME.name: 3.0, **{one.name: 1.0 for one in engines if one.ours}}
    taking_part = [engine.name for engine in engines if engine.name in seconds]
    return Measurement(
        task, {name: Timing(*3 * [seconds[name] / task.threads], 9, 1) for name in taking_part}
    )


def findings() -> Findings:
    measurements = {
        report.name: [measured(task, report.engines, Effort(0, 2)) for task in report.tasks]
        for report in REPORTS
    }
    return Findings(environment(), measurements=measurements, peaks={1: 100.0, 2: 200.0}, memory=MEMORY)


def test_targets_state_what_was_measured() -> None:
    found = findings()
    found.measurements["peers_atari"] = []
    half = len(found.measurements["suite"]) // 2
    for place, one in enumerate(
        found.measurements["suite"][:half]
    ):  # torch eager 4 instead of 9 times as slow
        timing = replace(one.timings[EAGER.name], median=4 / one.task.threads)
        found.measurements["suite"][place] = replace(one, timings={**one.timings, EAGER.name: timing})
    reached = {name: [target.measured(found, number) for number in (1, 2)] for name, target in ALL.items()}
    verdicts = {name: target.verdict(reached[name][0]) for name, target in ALL.items()}
    assert reached["lenet, training step (fuse + SGD) vs torch eager, B=64"] == [9, 9]
    assert verdicts["lenet, training step (fuse + SGD) vs torch eager, B=64"] == "aim met"
    assert verdicts["lenet, training step (TrainStep) vs torch eager, B=1"] == "missed"
    assert reached["lenet, inference (freeze) vs the best peer, B=64"] == [3, 3]
    assert verdicts["lenet, inference (freeze) vs the best peer, B=64"] == "must met"
    assert reached["cifar, inference (freeze) vs the best runtime, B=1"] == [3, 3]
    assert reached["cifar, training step (TrainStep) vs the best of torch, B=32"] == [9, 9]
    assert reached["atari, inference (freeze) vs the best runtime, B=1"] == [None, None]
    assert verdicts["atari, inference (freeze) vs the best runtime, B=1"] == "not measured"
    assert reached["memory of lenet_ext TrainStep vs torch eager"] == [5, None]
    assert verdicts["memory of lenet_ext TrainStep vs torch eager"] == "aim met"
    assert verdicts["memory of lenet_ext fuse + SGD vs torch eager"] == "missed"
    assert reached["lenet, 2 threads vs 1, inference, B=1"] == [None, 2]
    operations = Task(model=LENET, batch=256, direction=INFERENCE).operations
    assert reached["lenet, inference, share of the FMA peak, B=256"] == [
        pytest.approx(operations / 1e9),
        None,
    ]
    assert reached["LeNet training step, B=1"] == [9, 9]
    assert reached["pool1 forward, B=64"] == [9, 9]
    assert reached["layer suite, geometric mean"] == pytest.approx([6, 6])
    assert reached["layer suite, worst case"] == [4, 4]


@pytest.mark.parametrize(
    ("value", "verdict"), [(1.99, "missed"), (2, "must met"), (2.99, "must met"), (3, "aim met")]
)
def test_verdict(value: float, verdict: str) -> None:
    assert Target("", must=2, aim=3, measured=lambda *_: None).verdict(value) == verdict
    less = Target("", must=-2, aim=-3, measured=lambda *_: None, at_most=True)
    assert less.verdict(-value) == verdict


@pytest.mark.parametrize(("upper_quartile", "cell"), [(1.4e-6, " 2 |"), (1.6e-6, "~2 |")])
def test_unsteady_times_are_marked(upper_quartile: float, cell: str) -> None:
    report = next(report for report in REPORTS if report.name == "relu")
    timings = {
        LAYERS.name: Timing(2e-6, 1e-6, upper_quartile, 9, 1),
        EAGER.name: Timing(4e-6, 4e-6, 4e-6, 9, 1),
    }
    tasks = [replace(report.tasks[0], batch=1, threads=threads) for threads in THREADS]
    measurements = [Measurement(task, timings, {"JAX jit": "JAX jit differs"}) for task in tasks]
    markdown = report_markdown(report, Findings(environment(), measurements={report.name: measurements}))
    assert cell in markdown
    assert " 2.00x |" in markdown
    assert ("2 of 2 cases unsteady" in markdown) == ("~" in cell)
    assert "- JAX jit differs" in markdown


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is really measured."""
    monkeypatch.setattr(program, "measure", measured)
    monkeypatch.setattr(program, "training_memory", lambda batch: MEMORY)
    monkeypatch.setattr(program, "measured_peak", lambda threads: 100.0 * threads)
    monkeypatch.setattr(program, "keep_freed_memory", lambda: None)  # it would outlive the test


@pytest.mark.usefixtures("made_up")
def test_all_reports_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Engine("Nobody's engine", torch_run, packages=("no_such",))
    monkeypatch.setattr(program, "ENGINES", (*program.ENGINES, absent))
    program.main(["--quick", "--out", str(tmp_path / "new")])
    printed, out = capsys.readouterr().out, tmp_path / "new"
    names = [source.name for source in (*REPORTS, *TARGETS)]
    assert {path.name for path in out.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("md", "json", "png")
    }
    for name in names:
        text, content = (out / f"{name}.md").read_text(), json.loads((out / f"{name}.json").read_text())
        assert torch.__version__ in text
        assert text.partition("\n![")[0] in printed
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert {"date", "cpu", "isa", "torch"} <= content["environment"].keys()
        assert ("Nobody's engine (not installed: no_such)" in text) == name.startswith(PEERS)
        assert ("torch.compile (left out of a quick run)" in text) == name.startswith(PEERS)
    record = json.loads((out / "conv2d.json").read_text())["measurements"][0]
    assert record["threads"] == 1
    assert record["timings"][EAGER.name]["median"] == 9
    targets = json.loads((out / "summary.json").read_text())["targets"]
    first_pool = next(one for one in targets if one["target"] == "pool1 forward, B=64")
    assert first_pool["measured_by_threads"] == {"1": 9, "2": 9}
    assert first_pool["verdict_by_threads"] == {"1": "missed", "2": "missed"}


@pytest.mark.usefixtures("made_up")
def test_some_reports_are_enough(capsys: pytest.CaptureFixture[str]) -> None:
    program.main(["--quick", "--only", "relu", "--only", "linear"])
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ")]
    assert titles == [f"# {report.title}" for report in REPORTS if report.name in ("relu", "linear")]


@pytest.mark.usefixtures("made_up")
def test_a_wrong_result_of_ours_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(task: Task, *_: object, **__: object) -> Measurement:
        return Measurement(task, {}, {LAYERS.name: "output differs"})

    monkeypatch.setattr(program, "measure", wrong)
    with pytest.raises(SystemExit, match="output differs"):
        program.main(["--only", "relu"])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--only", "lent"], "invalid choice: 'lent' (choose from 'lenet', 'conv2d'"),
        (["--out", "file/charts"], "--out file/charts: cannot be made a folder: Not a directory"),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(SystemExit):
        program.main(arguments)
    assert error in capsys.readouterr().err


def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        program.main(["--out", "charts"])
    assert "numpy, tabulate, matplotlib is not installed" in capsys.readouterr().err


def test_roofline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], threads: None
) -> None:
    monkeypatch.setattr(roofline, "EFFORT", Effort(0, 2))
    monkeypatch.setattr(roofline, "BATCH", 2)
    monkeypatch.setattr(roofline, "OUTPUT", tmp_path / "roofline.png")
    monkeypatch.setattr(roofline, "measured_peak", lambda threads: 100.0)
    monkeypatch.setattr(roofline, "measured_bandwidth", lambda: 10.0)
    monkeypatch.setattr(roofline, "keep_freed_memory", lambda: None)
    with torch.random.fork_rng(devices=[]):
        roofline.main()
    printed = capsys.readouterr().out
    assert all(f"| {stage} " in printed for stage in roofline.STAGES)
    assert "FMA peak 100 GFLOP/s, copy 10.0 GB/s." in printed
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
