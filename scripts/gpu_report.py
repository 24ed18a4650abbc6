"""Builds, tests and times the CUDA kernels on this machine's GPU, and writes a report.

Needs no network: only torch (2.10 or newer), nvcc, pybind11, ninja and a C++ compiler. What more is installed
adds to it: pytest (with hypothesis and numpy) the tests, compute-sanitizer its checks, matplotlib the chart.
With --device cpu it is only tried out: the emulator takes the GPU's place in tests, the CPU in the benchmark.
With --only some steps are taken; of the others the report keeps what an earlier call on such a machine found.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Where the benchmarks and the helpers of the tests lie; and the package, if it is not installed.
sys.path += [str(ROOT), str(ROOT / "tests/helpers")]
from processes import KERNEL_TESTS, test_file  # noqa: E402

SECONDS = 530  # for everything: under nine minutes
BENCHMARK_SECONDS = {"networks": 150, "layers": 90}
LAST_LINES = 40
TEST_WORKERS = 12  # each has a context of its own on the GPU
EAGER = "torch eager"  # as the benchmarks name it
MEASURED = "Medians in microseconds per call; float32 without TF32 on all sides, cuDNN's fastest algorithms."
TARGETS = {
    "networks": "Targets: a training step 8x (aim 20x) as fast as eager torch for B=64 to 1024, and 2x (aim "
    "4x) as fast as the faster of the other two, also for B=16384 and for inference; 30 % (aim 60 %) of the "
    "float32 peak in the last line.",
    "layers": "Target for the LeNet layer by layer beside eager torch, B=1024: must 1.0x, aim 2x.",
}


@dataclass(frozen=True)
class Step:
    name: str
    command: list[str]
    limit: float  # seconds
    environment: dict[str, str]
    lacks: str = ""  # why it cannot be run


@dataclass(frozen=True)
class Outcome:
    name: str
    result: str  # "passed", "failed", or why it was not run
    seconds: float
    output: str


def lacking(*modules: str) -> str:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def steps(out: Path, device: str) -> list[Step]:
    python, tests = sys.executable, ROOT / "tests"
    on_gpu = device != "cpu"
    kernels, switch = ["--cuda"], ["--cuda"]
    if not on_gpu:
        library = str(ROOT / "build/cuda_emulator/libcuda_emulator.so")
        kernels, switch = ["--emulator", library], ["--cuda-emulator", library]
    results = [python, str(tests / "helpers/cuda_results.py"), *kernels]
    files = [str(test_file(name)) for name in KERNEL_TESTS]
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    workers = [] if lacking("xdist") else ["-n", str(min(TEST_WORKERS, os.cpu_count() or 1))]
    few, uncached = {"HYPOTHESIS_PROFILE": "few"}, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    build = [python, "setup.py", "build_ext", "--inplace", "--build-temp", "build/temp"]
    sanitizer = shutil.which("compute-sanitizer")
    no_sanitizer = "" if sanitizer and on_gpu else "compute-sanitizer was not found, or there is no GPU"
    checks = [
        Step(
            f"compute-sanitizer {tool}",
            [str(sanitizer), "--tool", tool, "--error-exitcode", "1", *results],
            75,
            uncached,
            no_sanitizer,
        )
        for tool in ("memcheck", "racecheck")
    ]
    benchmarks = [
        Step(
            f"benchmark of {what}",
            [python, "-m", "benchmarks.gpu", what, str(out / f"{what}.json"), "--device", device]
            + ([] if on_gpu else ["--seconds", "0.05"]),
            limit,
            {},
        )
        for what, limit in BENCHMARK_SECONDS.items()
    ]
    return [
        Step("build", build, 240, {"LENET_EXT_CUDA": "1"}),
        *(
            []
            if on_gpu
            else [Step("build of the emulator", [python, str(tests / "cuda/emulator/build.py")], 240, {})]
        ),
        Step("results like the CPU's", results, 60, {}),
        Step(
            "streams, graphs, devices",
            [*pytest, str(tests / "cuda/test_cuda.py")],
            60,
            {},
            lacking("pytest"),
        ),
        *benchmarks,
        Step(
            "tests of the operators",
            [*pytest, *workers, *files, *switch],
            300,
            few,
            lacking("pytest", "hypothesis", "numpy"),
        ),
        *checks,
    ]


def shortened(output: str) -> str:
    """Without the paths of this machine."""
    return output.replace(str(ROOT), ".").replace(sys.prefix, "python")


def run(step: Step, seconds_left: float) -> Outcome:
    if step.lacks:
        return Outcome(step.name, step.lacks, 0, "")
    limit, begin = min(step.limit, seconds_left), perf_counter()
    if limit <= 0:
        return Outcome(step.name, "no time was left", 0, "")
    paths = [str(ROOT), str(ROOT / "tests/helpers"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | step.environment
    try:
        finished = subprocess.run(
            step.command,
            cwd=ROOT,
            env=environment,
            timeout=limit,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        result, output = ("passed" if finished.returncode == 0 else "failed"), finished.stdout
    except subprocess.TimeoutExpired as expired:
        result = f"not finished within {limit:.0f} s"
        output = (
            expired.stdout.decode(errors="replace")
            if isinstance(expired.stdout, bytes)
            else expired.stdout or ""
        )
    return Outcome(step.name, result, perf_counter() - begin, shortened(output))


def earlier(out: Path, facts: dict[str, Any]) -> dict[str, Outcome]:
    """What an earlier call on a machine with the same software and GPU found, by the names of the steps."""
    file = out / "report.json"
    if not file.is_file():
        return {}
    content = json.loads(file.read_text())
    if content["environment"] != facts:
        return {}
    return {one["name"]: Outcome(**one) for one in content["steps"]}


def environment(device: str) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "device": device,
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = properties.name
        found["compute capability"] = f"{properties.major}.{properties.minor}"
    return found


def speed_table(rows: list[dict[str, Any]]) -> list[str]:
    """A row for each task, a column for each engine, and how `ours` of the row does beside the others."""
    engines = list(dict.fromkeys(engine for row in rows for engine in row["timings"]))
    columns = [*engines, "beside eager", "beside the best", "of the peak"]
    lines = ["", f"| what | batch | direction | {' | '.join(columns)} | right |"]
    lines.append("|---|---:|---|" + "---:|" * len(columns) + "---|")
    for row in rows:
        times = {engine: timing["median"] for engine, timing in row["timings"].items()}
        cells = [f"{times[engine] * 1e6:.1f}" if engine in times else "" for engine in engines]
        over = [
            times.get(EAGER),
            min((time for name, time in times.items() if name != row["ours"]), default=None),
        ]
        ours, peak = times.get(row["ours"]), row["peak_gigaflops"]
        cells += [f"{time / ours:.2f}x" if time and ours else "" for time in over]
        cells.append(
            f"{row['operations'] / ours / peak / 1e9:.0%}" if ours and peak and row["operations"] else ""
        )
        right = "; ".join(["NO", *row["wrong"].values()]) if row["wrong"] else "yes"
        cells = [row["name"], str(row["batch"]), row["direction"], *cells, right]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def markdown(
    facts: dict[str, Any], outcomes: list[Outcome], measured: dict[str, list[dict[str, Any]]]
) -> str:
    lines = ["# The CUDA kernels on a GPU" if "gpu" in facts else "# Tried out without a GPU", ""]
    lines += [", ".join(f"{name}: {value}" for name, value in facts.items()), ""]
    lines += ["| step | result | seconds |", "|---|---|---:|"]
    lines += [f"| {one.name} | {one.result} | {one.seconds:.0f} |" for one in outcomes]
    for what, rows in measured.items():
        if rows:
            lines += ["", f"## {what.capitalize()} beside native torch", "", f"{MEASURED} {TARGETS[what]}"]
            lines += speed_table(rows)
    for one in outcomes:
        if one.result != "passed" and one.output:
            last = one.output.splitlines()[-LAST_LINES:]
            lines += ["", f"## Output of: {one.name}", "", "```", *last, "```"]
    return "\n".join(lines) + "\n"


def chart(rows: list[dict[str, Any]], caption: str) -> bytes:
    from benchmarks.charts import Bars, bar_chart

    bars = []
    for row in rows:
        ours, eager = (row["timings"].get(name) for name in (row["ours"], EAGER))
        if ours and eager:
            label = f"{row['name']}, B={row['batch']}, {row['direction']}"
            bars.append(Bars(label, [eager["median"] / ours["median"]]))
    return bar_chart("Layers on a GPU beside native torch", caption, {"times as fast": bars}, ["ours"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="the steps whose names have one of these")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    files = {what: out / f"{what}.json" for what in TARGETS}
    facts = environment(arguments.device)
    if arguments.device == "cuda" and "gpu" not in facts:
        raise SystemExit("gpu_report: torch finds no GPU here; --device cpu tries the program out")
    end = perf_counter() + SECONDS
    all_steps = steps(out, arguments.device)
    words = arguments.only or [""]
    found = earlier(out, facts) if arguments.only else {}
    for what, file in files.items():
        if f"benchmark of {what}" not in found:
            file.unlink(missing_ok=True)
    wanted = [step for step in all_steps if any(word in step.name for word in words)]
    if not wanted:
        raise SystemExit(f"gpu_report: the steps are called {', '.join(step.name for step in all_steps)}")
    for step in wanted:
        found[step.name] = run(step, end - perf_counter())
        print(f"{step.name}: {found[step.name].result}, {found[step.name].seconds:.0f} s", flush=True)
        outcomes = [found[known.name] for known in all_steps if known.name in found]
        rows = {what: json.loads(file.read_text()) if file.is_file() else [] for what, file in files.items()}
        # After each step: a report is there even if a later one takes the machine down.
        (out / "report.md").write_text(markdown(facts, outcomes, rows))
        content = {"environment": facts, "steps": [asdict(one) for one in outcomes], **rows}
        (out / "report.json").write_text(json.dumps(content, indent=2) + "\n")
    if rows["layers"] and not lacking("matplotlib"):
        caption = ", ".join(str(value) for value in facts.values())
        (out / "speedups.png").write_bytes(chart(rows["layers"], caption))
    failed = [one.name for one in found.values() if one.result == "failed"]
    raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
