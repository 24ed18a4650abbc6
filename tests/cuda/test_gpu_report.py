"""scripts/gpu_report.py and benchmarks/gpu.py, as far as they go without a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.engines import COMPILED, EAGER, LAYERS, TRAIN_STEP
from benchmarks.models import LENET, Model
from benchmarks.tasks import TRAINING_STEP, Task

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import gpu_report  # noqa: E402


def step(code: str, limit: float = 20, lacks: str = "") -> gpu_report.Step:
    return gpu_report.Step("step", [sys.executable, "-c", code], limit, {"ANSWER": "42"}, lacks)


def test_outcomes_of_steps() -> None:
    passed = gpu_report.run(step("import os; print(os.environ['ANSWER'])"), 60)
    assert (passed.result, passed.output) == ("passed", "42\n")
    failed = gpu_report.run(step("import sys; sys.exit('no')"), 60)
    assert (failed.result, failed.output) == ("failed", "no\n")
    late = gpu_report.run(step("import time; print('begun', flush=True); time.sleep(60)", limit=1), 60)
    assert (late.result, late.output) == ("not finished within 1 s", "begun\n")
    assert gpu_report.run(step("", lacks="not installed: x"), 60).result == "not installed: x"
    assert gpu_report.run(step(""), 0).result == "no time was left"


def test_steps_on_a_gpu(tmp_path: Path) -> None:
    steps = {step.name: step for step in gpu_report.steps(tmp_path, "cuda")}
    assert "--cuda" in steps["tests of the operators"].command
    assert "--cuda" in steps["results like the CPU's"].command
    assert {"compute-sanitizer memcheck", "compute-sanitizer racecheck"} <= set(steps)
    for one in steps.values():
        assert all((ROOT / part).exists() for part in one.command if part.endswith(".py"))


def row(**facts: Any) -> dict[str, Any]:
    """A line of the benchmark's file; `timings` are microseconds."""
    timings = {name: {"median": us * 1e-6} for name, us in facts.pop("timings").items()}
    usual = {"name": "lenet", "batch": 64, "direction": "inference", "operations": 0, "wrong": {}}
    return usual | {"ours": "ours", "peak_gigaflops": None, "timings": timings} | facts


def test_report_names_what_went_wrong() -> None:
    outcomes = [
        gpu_report.Outcome("build", "passed", 3, "fine"),
        gpu_report.Outcome("tests", "failed", 5, "one failed"),
    ]
    measured = {
        "networks": [
            row(timings={"ours": 2, EAGER.name: 9, COMPILED.name: 5}),
            row(timings={"ours": 4}, operations=6e6, peak_gigaflops=4000),
        ],
        "layers": [row(name="relu", timings={EAGER.name: 3}, wrong={"ours": "ours differs"})],
    }
    text = gpu_report.markdown({"gpu": "G"}, outcomes, measured)
    assert "| tests | failed | 5 |" in text
    assert "one failed" in text
    assert "fine" not in text
    assert "| lenet | 64 | inference | 2.0 | 9.0 | 5.0 | 4.50x | 2.50x |  | yes |" in text
    assert "| lenet | 64 | inference | 4.0 |  |  |  |  | 38% | yes |" in text
    assert "| relu | 64 | inference | 3.0 |  |  |  | NO; ours differs |" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_report.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="torch finds no GPU here"):
        gpu_report.main()
    assert not list(tmp_path.iterdir())


def test_the_benchmark_writes_what_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, relu = tmp_path / "rows.json", Model("relu", (3, 4), torch.nn.ReLU)
    work = [
        (Task(model=LENET, batch=2, direction=TRAINING_STEP), (LAYERS, TRAIN_STEP, EAGER)),
        (Task(model=relu, batch=2, direction="forward"), (TRAIN_STEP, LAYERS, EAGER)),
    ]
    monkeypatch.setattr(gpu, "work", lambda *_: work)
    monkeypatch.setattr("sys.argv", ["gpu.py", "networks", str(file), "--device", "cpu", "--seconds", "0"])
    gpu.main()
    rows = json.loads(file.read_text())
    assert [one["ours"] for one in rows] == [LAYERS.name, LAYERS.name]  # a TrainStep does no layer
    text = gpu_report.markdown({}, [], {"networks": rows, "layers": rows[1:]})
    assert "| relu | 2 | forward |" in text
    assert gpu_report.EAGER in text
    assert gpu_report.chart(rows, "caption").startswith(b"\x89PNG")


@pytest.mark.parametrize("what", ["layers", "networks"])
def test_tasks_are_those_of_the_device(what: str) -> None:
    tasks = [task for task, _ in gpu.work(what, "meta")]
    assert {task.device for task in tasks} == {"meta"}
    assert {gpu.LAYER_BATCH, max(gpu.LENET_BATCHES)} <= {task.batch for task in tasks}
    assert len(tasks) > (20 if what == "layers" else 8)
