"""scripts/gpu_report.py and benchmarks/bench_gpu.py, as far as they go without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from lenet_ext.benchmark.cases import INFERENCE, TRAINING_STEP
from lenet_ext.benchmark.reports import REPORTS

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]
import bench_gpu  # noqa: E402
import bench_gpu_net  # noqa: E402
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


def test_report_names_what_went_wrong() -> None:
    row = {"case": "relu", "batch": 2, "direction": "forward", "ours": 2.0, "native": 3.0, "speedup": 1.5}
    outcomes = [
        gpu_report.Outcome("build", "passed", 3, "fine"),
        gpu_report.Outcome("tests", "failed", 5, "one failed"),
    ]
    network = {"what": "inference", "batch": 64, "is_right": True, "share_of_peak": None}
    networks = [
        network | {"microseconds": {"ours": 2.0, "eager torch": 9.0, "torch.compile": 5.0}},
        network | {"microseconds": {"ours": 4.0}, "share_of_peak": 0.375},
    ]
    text = gpu_report.markdown({"gpu": "G"}, outcomes, networks, [row | {"is_right": False}])
    assert "| tests | failed | 5 |" in text
    assert "one failed" in text
    assert "fine" not in text
    assert "| inference | 64 | 2.0 | 9.0 | 5.0 | 4.50x | 2.50x |  | yes |" in text
    assert "| inference | 64 | 4.0 |  |  |  |  | 38% | yes |" in text
    assert "| relu | 2 | forward | 2.0 | 3.0 | 1.50x | NO |" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_report.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="torch finds no GPU here"):
        gpu_report.main()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", [TRAINING_STEP, INFERENCE])
def test_measuring_networks(what: str) -> None:
    row = bench_gpu_net.measure(what, 4, "cpu", 0.01)
    assert row.is_right
    assert set(row.microseconds) == {bench_gpu_net.OURS, bench_gpu_net.EAGER}
    assert bench_gpu_net.peak_row(4, "cpu", 0.01).is_right


@pytest.mark.parametrize("name", ["lenet", "conv2d"])
def test_measuring(name: str) -> None:
    case = REPORTS[name].cases[0]
    row = bench_gpu.measure(case, 0.01)
    assert row.is_right
    assert row.runs >= bench_gpu.FEWEST_RUNS
    assert row.speedup == pytest.approx(row.native / row.ours)


def test_cases_are_those_of_the_device() -> None:
    cases = list(bench_gpu.layer_cases("meta", 32))
    assert {case.device for case in cases} == {"meta"}
    assert {case.batch for case in cases} == {32}
    assert len(cases) > 20
